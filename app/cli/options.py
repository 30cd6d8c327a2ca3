"""Options whose values are a fixed set: checked before anything is asked, so that another value is wrong usage."""

from enum import StrEnum
from typing import Annotated, Literal

import typer

from app.core.strategies import STRATEGIES


class Scope(StrEnum):
    """What a token may do. An enumeration, because an option that is repeated can have no literal type."""

    READ = "read"
    PUBLISH = "publish"
    OPERATE = "operate"
    ADMIN = "admin"


def _known_strategy(name: str) -> str:
    if name not in STRATEGIES:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(map(repr, STRATEGIES))}.")
    return name


Dtype = Annotated[
    Literal["float32", "float16", "bfloat16"] | None,
    typer.Option(help="Output dtype; default: as stored in the base."),
]
Tokenizer = Annotated[Literal["release", "patch"], typer.Option(help="Whose tokenizer and chat template to carry.")]
Strategy = Annotated[
    str, typer.Option(callback=_known_strategy, help=f"How the patch is added to the base: {', '.join(STRATEGIES)}.")
]
Scopes = Annotated[list[Scope] | None, typer.Option("--scope", help="Instead of a role; repeat for several.")]
Role = Annotated[Literal["reader", "publisher", "operator", "admin"] | None, typer.Option(help="What it may do, in a word.")]
JobState = Annotated[
    Literal["queued", "running", "done", "failed", "cancelled"] | None, typer.Option(help="Only jobs in this state.")
]
