"""Findings: one reason each for or against a port."""

from dataclasses import dataclass, field
from typing import Any, Literal

from app.core.errors import CoreError, Entry

Severity = Literal["refuse", "warn", "info"]

# What findings mean that are no error of `core`: title, what was seen, what to do.
MEANINGS: dict[str, Entry] = {
    "lineage.measured": Entry("Lineage measured", "A sample of both releases' weights says how alike they are.", "Nothing: the figures are for your own judgement."),
    "lineage.distant": Entry("Far from the trained-on release", "The tensors that the patch touches point in clearly other directions than in the release it was trained on.", "Evaluate the merged model before you rely on it."),
    "lineage.unrelated": Entry("Another model", "The tensors that the patch touches have nothing in common with those of the release it was trained on: adding it does harm.", "Port it to a continuation of that release, train it again, or force the port with a reason."),
    "lineage.unknown": Entry("Trained-on release unknown", "Nobody said which release the patch was trained on, so nothing tells whether this one continues it.", "Approve the port, or publish the patch with --trained-on."),
    "fidelity.low": Entry("Lost in rounding", "Much of the patch is smaller than the steps of the output dtype.", "Ask for dtype float32 or float16, or serve the patch as an adapter."),
    "tokenizer.differs": Entry("Two tokenizers", "The patch brings tokenizer files that differ from the release's.", "Choose with tokenizer=release or tokenizer=patch."),
    "chat_template.differs": Entry("Two chat templates", "The patch brings a chat template that differs from the release's.", "Choose with tokenizer=release or tokenizer=patch."),
    "tokenizer.changed": Entry("Tokenizer changed", "Tokenizer files changed since the release that the patch was trained on.", "Evaluate the merged model: token ids may mean something else now."),
    "config.changed": Entry("Configuration changed", "Settings that change what the weights mean differ from the release that the patch was trained on.", "Evaluate the merged model before you rely on it."),
    "release.left_out": Entry("Files not carried", "The release holds files beside its safetensors weights that no merged model carries.", "Nothing, unless you need them: fetch them from the release."),
}  # fmt: skip


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
