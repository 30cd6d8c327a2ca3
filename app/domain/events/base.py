"""The base classes of events: each kind is a class, and its fields are the data of the event.

Fields are stored and served in the order of their declaration; a field that has its default value is omitted. Fields declared
with `for_handlers` are not stored: they pass plain values to the handlers of the kind.
"""

from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar, NamedTuple, dataclass_transform

KINDS: "dict[str, type[Event]]" = {}


class Spec(NamedTuple):
    """What the reference documents about a kind besides its docstring: its name, and what its subject is."""

    kind: str
    subject: str


def flattened() -> Any:
    """Declares a mapping whose items become items of the data themselves."""
    return field(metadata={"flattened": True})


def for_handlers() -> Any:
    """Declares a value for handlers, which is neither stored nor served."""
    return field(repr=False, metadata={"unstored": True})


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(flattened, for_handlers))
class Event:
    """Something that happened. Each kind of event is a subclass."""

    spec: ClassVar[Spec]

    def __init_subclass__(cls, kind: str = "", subject: str = "") -> None:
        dataclass(frozen=True, kw_only=True)(cls)
        if kind:
            cls.spec = Spec(kind, subject)
            KINDS[kind] = cls

    def data(self) -> dict[str, Any]:
        """Returns the data that is stored."""
        found = dict[str, Any]()
        for one in fields(self):  # type: ignore[arg-type]
            value = getattr(self, one.name)
            if one.metadata.get("flattened"):
                found |= value
            elif not one.metadata.get("unstored") and value is not one.default:
                found[one.name] = value
        return found


class OwnerEvent(Event):
    """An event that only its owner and admins can see; only admins, if it belongs to the installation."""


class FamilyEvent(Event):
    """An event about a family of base models or one of its releases; every owner that may see the family can see it."""


Reason = Annotated[str, "the reason that was given"]
Code = Annotated[str, "error code, see /problems"]
Detail = Annotated[str, "error message"]
