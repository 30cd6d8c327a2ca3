"""What all bodies share."""

import datetime as dt
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationInfo, field_validator, model_validator

from app.text import refused_character

# File names may contain any character (macOS has "Icon\\r"); files that do not belong to a patch are left out and shown as text.
FILE_FIELDS = frozenset({"path"})
MAX_UNKNOWN = 16  # unknown fields of a body that are named one by one


class In(BaseModel):
    """A request body: unknown fields are refused, so that a misspelt one is not silently ignored."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    @model_validator(mode="before")
    @classmethod
    def _few_unknown_fields(cls, value: Any) -> Any:
        """Each unknown field makes an error of its own: a body of half a million cost 8 s and half a gigabyte."""
        if isinstance(value, dict) and len(value) > len(cls.model_fields) + MAX_UNKNOWN:
            raise ValueError(f"it has {len(value)} fields, of which at most {len(cls.model_fields)} are known")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _no_control_character(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuses characters that a terminal or a page would interpret. All fields refuse NUL: PostgreSQL cannot store it."""
        if not isinstance(value, str):
            return value
        found = "\\x00" if "\0" in value else None if info.field_name in FILE_FIELDS else refused_character(value)
        if found:
            raise ValueError(f"it holds the control character {found}")
        return value


class Out(BaseModel):
    """An answer."""


Item = TypeVar("Item", bound=BaseModel)


class Listing(Out, Generic[Item]):
    """A page of a list, newest first."""

    items: list[Item]
    next_cursor: Annotated[
        str | None, Field(description="Send as `cursor` for the next page; null on the last.", examples=[None])
    ] = None


class ProblemOut(Out):
    """RFC 9457 problem details; switch on `code`, never on the text."""

    type: Annotated[str, Field(examples=["/problems/release.unknown"])]
    title: Annotated[str, Field(examples=["Unknown release"])]
    status: Annotated[int, Field(examples=[404])]
    detail: Annotated[str, Field(examples=["Family 'llama' has no release 'v9'."])]
    code: Annotated[str, Field(examples=["release.unknown"])]
    remedy: Annotated[str, Field(examples=["List them with 'portllm ls releases'; register it with 'portllm release add'."])]
    data: Annotated[dict[str, Any], Field(examples=[{"family": "llama", "release": "v9"}])] = {}


class JobProblem(Out):
    """Why a job failed, in the language of all errors."""

    code: Annotated[str, Field(examples=["checkpoint.missing_file"])]
    title: Annotated[str, Field(examples=["File missing"])]
    detail: Annotated[str, Field(examples=["config.json is missing."])]
    remedy: Annotated[str, Field(examples=["Give a complete model directory as save_pretrained writes it."])]


class ReasonIn(In):
    """Why something is done."""

    reason: Annotated[str, Field(min_length=1, max_length=2000, examples=["diverged on customer data"])]


Sha256 = Annotated[str, Field(examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"])]
Bytes = Annotated[int, Field(examples=[2048])]
Reason = Annotated[str | None, Field(examples=[None])]
Time = Annotated[dt.datetime, Field(examples=["2026-11-24T12:00:00Z"])]
Text = Annotated[str, Field(max_length=2000)]
# Of a file: a name with a space at its end is another name.
FilePath = Annotated[str, StringConstraints(strip_whitespace=False, min_length=1, max_length=1024)]
Name = Annotated[str, Field(min_length=1, max_length=89)]
