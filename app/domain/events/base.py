"""What an event is: a class for each kind, whose fields are its data.

The fields, in this order, are stored and served; a field with a default is left out where it has that value. Fields made by
`for_handlers` are not stored: they hand plain values to the handlers of the kind.
"""

from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar, NamedTuple, dataclass_transform

KINDS: "dict[str, type[Event]]" = {}


class Spec(NamedTuple):
    """What is documented of a kind beside its sentence: its name, and what its subject is."""

    kind: str
    subject: str


def flattened() -> Any:
    """Declares a mapping of which each item is one item of the data."""
    return field(metadata={"flattened": True})


def for_handlers() -> Any:
    """Declares a value for handlers, which is neither stored nor served."""
    return field(repr=False, metadata={"unstored": True})


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(flattened, for_handlers))
class Event:
    """What happened, of one kind."""

    spec: ClassVar[Spec]

    def __init_subclass__(cls, kind: str = "", subject: str = "") -> None:
        dataclass(frozen=True, kw_only=True)(cls)
        if kind:
            cls.spec = Spec(kind, subject)
            KINDS[kind] = cls

    def data(self) -> dict[str, Any]:
        """Returns what is stored."""
        found = dict[str, Any]()
        for one in fields(self):  # type: ignore[arg-type]
            value = getattr(self, one.name)
            if one.metadata.get("flattened"):
                found |= value
            elif not one.metadata.get("unstored") and value is not one.default:
                found[one.name] = value
        return found


class OwnerEvent(Event):
    """An event that one owner sees; what belongs to the installation, admins."""


class FamilyEvent(Event):
    """An event about a family of base models or one of its releases: everybody sees it who may see the family."""


Reason = Annotated[str, "what was given as the reason"]
Code = Annotated[str, "code of the problem, see /problems"]
Detail = Annotated[str, "sentence of the problem"]
