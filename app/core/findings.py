"""Findings: one reason each for or against a port."""

from dataclasses import dataclass, field
from typing import Any, Literal

from app.core.errors import CoreError

Severity = Literal["refuse", "warn", "info"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason: a stable code, how much it weighs, a sentence, and the figures behind it."""

    code: str
    severity: Severity
    message: str
    data: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"code": self.code, "severity": self.severity, "message": self.message, "data": self.data}


def refusal(error: CoreError) -> Finding:
    """The finding that stands for an error of `core`."""
    return Finding(error.code, "refuse", str(error), error.data)
