"""Bodies of the names that others have for our bases."""

from typing import Annotated

from pydantic import Field

from app.api.schemas.base import In, Name, Out, Time
from app.db.base_aliases import BaseAlias


class BaseAliasIn(In):
    """What others call a family, or one of its releases."""

    name: Annotated[
        str,
        Field(
            min_length=1, max_length=200, description="As `base_model_name_or_path` of adapter_config.json says it.",
            examples=["meta-llama/Meta-Llama-3-8B"],
        ),
    ]  # fmt: skip
    revision: Annotated[
        str | None,
        Field(min_length=1, max_length=100, description="The one revision there that is meant; null: all.", examples=[None]),
    ] = None
    release: Annotated[Name | None, Field(description="Which release that is; null: the family alone.", examples=["v1"])] = None


class BaseAliasOut(Out):
    """What others call a family, or one of its releases."""

    id: Annotated[str, Field(examples=["bas_0193a1b2c3d4e5f60718293a4b5c6d7e8f90"])]
    family: Annotated[str, Field(examples=["llama-3-8b"])]
    name: Annotated[str, Field(examples=["meta-llama/Meta-Llama-3-8B"])]
    revision: Annotated[str | None, Field(examples=[None])]
    release: Annotated[str | None, Field(examples=["v1"])]
    created_at: Time

    @classmethod
    def of(cls, row: BaseAlias) -> "BaseAliasOut":
        return cls(
            id=row.id, family=row.family.name, name=row.name, revision=row.revision,
            release=row.release.name if row.release else None, created_at=row.created_at,
        )  # fmt: skip
