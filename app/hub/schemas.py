"""Bodies and headers of pushes, and what is said of them; names of fields are the protocol's."""

import re
from typing import Annotated, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.domain.errors import DomainError
from app.http.body_routes import buffered_body
from app.hub.errors import in_a_header

MAX_PATHS = 10_000
Path = Annotated[str, Field(min_length=1, max_length=1024)]
Name = Annotated[str, Field(min_length=1, max_length=96)]
Oid = Annotated[str, Field(min_length=64, max_length=64)]
Size = Annotated[int, Field(ge=0, lt=2**62)]


class Body(BaseModel):
    """What is not known here is left alone: clients say more with every version."""

    model_config = ConfigDict(extra="ignore")


class CreateIn(Body):
    """A repository to create, or to delete."""

    name: Name
    organization: Annotated[str | None, Field(max_length=96)] = None
    type: Annotated[str | None, Field(max_length=20)] = None
    private: bool | None = None
    visibility: Annotated[str | None, Field(max_length=20)] = None


class CardIn(Body):
    """A README.md to look at."""

    content: Annotated[str, Field(max_length=8 * 2**20)]


class FileIn(Body):
    """A file that will be pushed; `sample`, its beginning, is not looked at."""

    path: Path
    size: Size


class FilesIn(Body):
    """What will be pushed."""

    files: Annotated[list[FileIn], Field(max_length=MAX_PATHS)]


class ObjectIn(Body):
    """A file by its digest."""

    oid: Oid
    size: Size


class BatchIn(Body):
    """Files that a client wants to send by LFS."""

    operation: Annotated[str, Field(max_length=20)]
    transfers: Annotated[list[Annotated[str, Field(max_length=40)]], Field(max_length=20)] = Field(
        default_factory=lambda: ["basic"]
    )
    objects: Annotated[list[ObjectIn], Field(max_length=MAX_PATHS)]


class TagIn(Body):
    """A tag to make; what is said of it is not kept."""

    tag: Name


Model = TypeVar("Model", bound=Body)


def parsed(request: Request, model: type[Model]) -> Model:
    """Parses the body of a request, which its route has buffered.

    Raises:
        DomainError: request.invalid.
    """
    return checked(buffered_body(request), model)


def checked(body: bytes, model: type[Model]) -> Model:
    """Raises `DomainError` (request.invalid)."""
    try:
        made = model.model_validate_json(body)
        made.model_dump_json()  # half characters can be read, and not be written again
    except ValidationError as error:
        reasons = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False)[:5]]
        raise DomainError("request.invalid", reason="; ".join(reasons).encode(errors="replace").decode()[:500] + ".") from None
    except ValueError:
        raise DomainError("request.invalid", reason="It holds characters that are none.") from None
    return made


_TOPIC = re.compile(r"[^a-z0-9/._-]")


def warning(topic: str, text: str) -> dict[str, str]:
    """A header that clients show to people, the first of a topic."""
    return {"X-HF-Warning": f"portllm {_TOPIC.sub('', topic.lower())[:80]}; {in_a_header(text)}"}


def left_out(repository: str, paths: list[str]) -> dict[str, str]:
    """Tells that files were not taken, for they belong to no patch; nothing to tell where there are none."""
    if not paths:
        return {}
    more = f" and {len(paths) - 10} more" if len(paths) > 10 else ""
    return warning(f"left-out {repository}", f"Left out, not part of a patch: {', '.join(paths[:10])}{more}.")


def address(request: Request, path: str) -> str:
    """An address here, by the host that the client used: it refuses answers that name another."""
    return f"{str(request.base_url).rstrip('/')}/{path}"
