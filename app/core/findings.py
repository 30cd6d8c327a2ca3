"""Findings: one reason each for or against a port."""

from dataclasses import dataclass, field
from typing import Any, Literal

from app.core.errors import CoreError, ErrorCode
from app.text import visible

Severity = Literal["refuse", "warn", "info"]

# What findings mean that are no error of `core`: title, what was seen, what to do.
MEANINGS: dict[str, ErrorCode] = {
    "lineage.measured": ErrorCode("Lineage measured", "A sample of both releases' weights says how alike they are.", "Nothing: the figures are for your own judgement."),
    "lineage.distant": ErrorCode("Far from the trained-on release", "The tensors that the patch touches point in clearly other directions than in the release it was trained on.", "Evaluate the merged model before you rely on it."),
    "lineage.unrelated": ErrorCode("Another model", "The tensors that the patch touches have nothing in common with those of the release it was trained on: adding it does harm.", "Port it to a continuation of that release, train it again, or force the port with a reason."),
    "lineage.unknown": ErrorCode("Trained-on release unknown", "Nobody said which release the patch was trained on, so nothing tells whether this one continues it.", "Approve the port, or publish the patch with --trained-on."),
    "fidelity.low": ErrorCode("Lost in rounding", "Much of the patch is smaller than the steps of the output dtype.", "Ask for dtype float32 or float16, or serve the patch as an adapter."),
    "tokenizer.differs": ErrorCode("Two tokenizers", "The patch brings tokenizer files that differ from the release's.", "Choose with tokenizer=release or tokenizer=patch."),
    "chat_template.differs": ErrorCode("Two chat templates", "The patch brings a chat template that differs from the release's.", "Choose with tokenizer=release or tokenizer=patch."),
    "tokenizer.changed": ErrorCode("Tokenizer changed", "Tokenizer files changed since the release that the patch was trained on.", "Evaluate the merged model: token ids may mean something else now."),
    "config.changed": ErrorCode("Configuration changed", "Settings that change what the weights mean differ from the release that the patch was trained on.", "Evaluate the merged model before you rely on it."),
    "release.left_out": ErrorCode("Files not carried", "The release holds files beside its safetensors weights that no merged model carries.", "Nothing, unless you need them: fetch them from the release."),
    # -- what engines serve
    "serving.port_state": ErrorCode("Port not served", "The port is not ready, so no engine is given it.", "See its findings; approve a held port, or port the patch again."),
    "serving.yanked": ErrorCode("Yanked", "The version or the release was yanked after the port was made.", "Serve another version, or port to another release."),
    "serving.recipe": ErrorCode("Recipe is no adapter", "The port's recipe gives another model than the release with the patch as an adapter beside it.", "Serve the merged model, or port with the plain recipe."),
    "serving.setting": ErrorCode("Setting not served", "The engine refuses or ignores a setting of adapter_config.json that changes what the patch does.", "Serve the merged model, or train without the setting."),
    "serving.architecture": ErrorCode("Architecture not served", "The engine does not serve this architecture, or takes no adapters for it.", "Serve the merged model, with an engine whose entry in serving.json is servable."),
    "serving.target_module": ErrorCode("Module not served", "The patch has factors on modules for which the engine takes no adapter.", "Serve the merged model."),
    "serving.rank": ErrorCode("Rank too large", "The patch has a larger rank than the engine takes.", "Serve the merged model."),
    "serving.tokenizer": ErrorCode("Tokenizer of the base", "The patch brings tokenizer files that an engine does not read beside a shared base.", "If the patch needs them, port it with tokenizer=patch and serve the merged model."),
    "serving.adapter_dtype": ErrorCode("Dtype of the base", "The engine takes adapters beside a base of 16 bits only, and rounds others.", "Nothing, if rounding is well; else serve the merged model."),
    "serving.factors_rounded": ErrorCode("Factors rounded", "The engine rounds the factors to the base's dtype.", "Nothing: it is what the engine does with every adapter."),
    "serving.no_adapters": ErrorCode("No adapters", "The engine serves whole models only.", "Serve the merged model."),
    "serving.no_address": ErrorCode("No repository", "A merged model of this recipe has no name in the Hub protocol.", "Pull it with 'portllm pull PORT DIR' and serve the directory."),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason: a stable code, how much it weighs, a sentence, and the figures behind it."""

    code: str
    severity: Severity
    message: str
    data: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Escapes control characters in the message, which contains names of tensors and files from uploads."""
        object.__setattr__(self, "message", visible(self.message))

    def to_dict(self) -> dict[str, Any]:
        return {"code": self.code, "severity": self.severity, "message": self.message, "data": self.data}


def refusal(error: CoreError) -> Finding:
    """The finding that stands for an error of `core`."""
    return Finding(error.code, "refuse", str(error), error.data)
