"""The error tree of `core`: every refusal has a code, a sentence and a way out.

    CoreError
    ├── HeaderError       a safetensors file that is not one
    ├── CheckpointError   a base model directory that cannot be used
    ├── AdapterError      a patch that cannot be added exactly
    ├── PortError         a patch and a base that do not fit each other
    ├── XetError          blocks or a shard of an upload that cannot be used
    └── OutputError       the merged model cannot be written or read

The catalogue below is the single list of codes; the documentation pages and the tests are made from it.
"""

from typing import Any, NamedTuple

from app.text import visible


class ErrorCode(NamedTuple):
    """One documented code: a title, a sentence with named holes, and what the user can do."""

    title: str
    detail: str
    remedy: str


RESAVE = "Save the file again with the safetensors library and retry."
PEFT_SAVE = "Save the adapter again with PEFT's save_pretrained and retry."

CATALOGUE: dict[str, ErrorCode] = {
    # -- safetensors headers
    "header.truncated": ErrorCode("File too short", "{path}: needs {expected} bytes but has {size}.", "The copy or upload was cut short; copy the file again."),
    "header.too_many_tensors": ErrorCode("Too many tensors", "{path}: the header names {count} tensors; the limit is {limit}.", "Publish LoRA factors alone, two tensors for each linear module of the base."),
    "header.too_large": ErrorCode("Header too large", "{path}: the header claims {length} bytes; the limit is {limit}.", RESAVE),
    "header.invalid_json": ErrorCode("Header is not JSON", "{path}: the header is not a JSON object: {reason}.", RESAVE),
    "header.duplicate_key": ErrorCode("Duplicate key in header", "{path}: the header names {key!r} twice.", RESAVE),
    "header.invalid_entry": ErrorCode("Malformed tensor entry", "{path}: the entry of tensor {tensor!r} is malformed: {reason}.", RESAVE),
    "header.unknown_dtype": ErrorCode("Unknown dtype", "{path}: tensor {tensor!r} has dtype {dtype!r}, which is not a safetensors dtype known here.", RESAVE),
    "header.size_mismatch": ErrorCode("Shape and size disagree", "{path}: tensor {tensor!r} needs {expected} bytes by its shape but its offsets span {actual}.", RESAVE),
    "header.overlap": ErrorCode("Tensors overlap", "{path}: tensor {tensor!r} begins at {begin}, inside the tensor before it, which ends at {end}.", RESAVE),
    "header.gap": ErrorCode("Gap between tensors", "{path}: bytes {end} to {begin} before tensor {tensor!r} belong to no tensor.", RESAVE),
    "header.trailing_bytes": ErrorCode("Trailing bytes", "{path}: {count} bytes follow the last tensor.", RESAVE),
    # -- base models
    "checkpoint.missing_file": ErrorCode("File missing", "{path} is missing.", "Give a complete model directory as save_pretrained writes it."),
    "checkpoint.unreadable": ErrorCode("File not readable", "{path} cannot be read ({reason}).", "Give the user that runs this program, on a registry those of the service and of its workers, the right to read every file and to enter every folder of the directory."),
    "checkpoint.invalid_json": ErrorCode("Invalid JSON file", "{path} cannot be used: {reason}.", "Repair or re-download the file."),
    "checkpoint.no_weights": ErrorCode("No safetensors weights", "The directory holds neither model.safetensors nor model.safetensors.index.json.", "Convert the model with save_pretrained (pickled weights are refused)."),
    "checkpoint.ambiguous_weights": ErrorCode("Two sets of weights", "The directory holds both model.safetensors and model.safetensors.index.json.", "Remove the one that does not belong to this release."),
    "checkpoint.invalid_index": ErrorCode("Invalid shard index", "{path}: {reason}.", "Save the model again with save_pretrained."),
    "checkpoint.unsafe_path": ErrorCode("Unsafe file name", "The file name {path!r} is not allowed.", "Shards must lie directly in the model directory, under names without '/' or '..'."),
    "checkpoint.link": ErrorCode("Link out of the release", "{path} is a link that leads out of the release, to a place that releases may not be read from.", "Put the file itself there, or register the release with --copy from a directory without such links; or let the operator allow the place that the link leads to: restart the service with --allow-root; workers take it over, those with roots of their own need it too."),
    "checkpoint.index_mismatch": ErrorCode("Index and shards disagree", "{path}: {reason}.", "Save the model again with save_pretrained into an empty directory."),
    "checkpoint.duplicate_tensor": ErrorCode("Tensor stored twice", "Tensor {tensor!r} is stored in {first} and in {second}.", "Save the model again with save_pretrained."),
    "checkpoint.quantized": ErrorCode("Quantised base", "The base is quantised ({method}); a patch can only be added to {supported}.", "Register the 16-bit release instead."),
    "checkpoint.remote_code": ErrorCode("Remote code", "{path} asks for code from the model repository (auto_map).", "Use a release whose architecture is part of transformers; remote code is never run."),
    "checkpoint.moe": ErrorCode("Mixture of experts", "The base is a mixture-of-experts model ({model_type}).", "Not supported yet."),
    "checkpoint.architecture": ErrorCode("Unsupported architecture", "Model type {model_type!r} is not one whose checkpoint and module names are known to agree.", "Supported: {supported}."),
    "checkpoint.changed": ErrorCode("File changed", "{path} is not the file that was registered any more ({reason}).", "Restore the file, or register the new content as another release; where the bytes are the same (it was copied or restored), let the operator run 'portllm fsck --reaccept'."),
    "checkpoint.too_many_files": ErrorCode("Too many files", "The directory holds more than {limit} files.", "Give the model directory itself, not a folder above it."),
    # -- adapters
    "adapter.missing_file": ErrorCode("File missing", "The patch has no {path}.", "Give the directory that PEFT's save_pretrained wrote: adapter_config.json and adapter_model.safetensors."),
    "adapter.pickle": ErrorCode("Pickled weights", "{path} is a pickle, which can run code when it is opened.", "Save the adapter with save_pretrained(..., safe_serialization=True)."),
    "adapter.invalid_config": ErrorCode("Invalid adapter configuration", "adapter_config.json: {reason}.", PEFT_SAVE),
    "adapter.peft_type": ErrorCode("Unsupported PEFT type", "The patch is of PEFT type {peft_type!r}; supported: {supported}.", "Not supported yet."),
    "adapter.unknown_field": ErrorCode("Unknown setting", "adapter_config.json sets {field!r} to {value}, whose meaning is not known here.", "Only settings that are understood can be carried over exactly; train without it or ask for support."),
    "adapter.dora": ErrorCode("DoRA", "The patch uses DoRA.", "Not supported yet; train with use_dora=False."),
    "adapter.modules_to_save": ErrorCode("Whole modules saved", "The patch carries whole modules ({value}), copies of the old base.", "Not supported yet; train without modules_to_save."),
    "adapter.bias": ErrorCode("Trained biases", "The patch trains biases ({name}={value}).", "Not supported yet; train with bias='none' and lora_bias=False."),
    "adapter.embedding": ErrorCode("Embedding in the patch", "The patch changes an embedding or a vocabulary ({name}).", "Not supported yet; train on linear layers only."),
    "adapter.tied_target": ErrorCode("Tied target", "The patch changes {module!r}, which shares its tensor with another module in this base (tie_word_embeddings).", "Not supported yet; train without lm_head and embed_tokens."),
    "adapter.expert_parameters": ErrorCode("Patch on 3-D parameters", "The patch targets parameters with more than two dimensions ({name}), such as fused experts.", "Not supported yet."),
    "adapter.init_changes_base": ErrorCode("Initialisation that changes the base", "{name}={value} changes the base weights, so B*A alone is not what was trained.", "Convert it: save_pretrained(..., path_initial_model_for_weight_conversion=...)."),
    "adapter.prepass": ErrorCode("Prepass needed", "Patches of type {peft_type} need values that are computed from the whole base first; only 'portllm merge' computes them.", "Merge offline with 'portllm merge'."),
    "adapter.variant": ErrorCode("Unsupported LoRA variant", "The patch uses the LoRA variant {name!r}.", "Not supported yet."),
    "adapter.fan_in_fan_out": ErrorCode("Transposed weights", "The patch was trained on transposed (Conv1D) weights.", "Not supported yet."),
    "adapter.pattern": ErrorCode("Pattern not usable", "The pattern {pattern!r} in {field} cannot be used: {reason}.", "Use a plain RE2 pattern of at most {limit} characters, or a list of module names."),
    "adapter.unknown_tensor": ErrorCode("Tensor not understood", "The patch holds the tensor {tensor!r}, which is not a LoRA factor.", PEFT_SAVE),
    "adapter.unpaired": ErrorCode("Factor without partner", "Module {module!r} has {present} but no {absent}.", PEFT_SAVE),
    "adapter.not_targeted": ErrorCode("Tensors beyond the configuration", "The patch holds factors for {count} module(s) that adapter_config.json does not name, first {module!r}.", "target_modules, exclude_modules and layers_to_transform must name just what the file holds."),
    "adapter.not_in_file": ErrorCode("Configuration beyond the tensors", "adapter_config.json names {count} module(s) of this base for which the file holds no factors, first {module!r}.", "The patch is incomplete or belongs to another base."),
    "adapter.empty": ErrorCode("Patch without effect", "The patch changes no module of this base.", "It belongs to another architecture, or nothing was trained."),
    "adapter.adds_nothing": ErrorCode("Patch of zeros", "Every product B*A of the patch is zero: the merged model would be the release itself.", "Nothing was trained, or lora_alpha is 0; publish the adapter that the training wrote at its end."),
    "adapter.rank": ErrorCode("Rank disagrees", "Module {module!r}: the configuration says rank {expected}, the factors have {actual}.", PEFT_SAVE),
    "adapter.dtype": ErrorCode("Factor dtype", "Tensor {tensor!r} has dtype {dtype}; LoRA factors must be F32, F16 or BF16.", PEFT_SAVE),
    "adapter.non_finite": ErrorCode("NaN or infinity", "Tensor {tensor!r} holds {count} values that are NaN or infinite.", "The training diverged; do not publish this patch."),
    # -- patch and base together
    "port.target_missing": ErrorCode("Module not in the base", "The base has no weight for module {module!r} ({count} missing in all).", "The patch was trained on another architecture or family."),
    "port.shape": ErrorCode("Shapes do not fit", "Module {module!r}: the patch is {delta} but the base weight is {weight}.", "The patch was trained on a base of another size or family."),
    "port.target_dtype": ErrorCode("Base weight dtype", "The base stores {tensor!r} as {dtype}; a patch can only be added to {supported}.", "Register the 16-bit release instead."),
    "port.overflow": ErrorCode("Value out of range", "Tensor {tensor!r} does not fit into {dtype}: {count} values became infinite.", "Ask for another dtype, for example float32."),
    "recipe.invalid": ErrorCode("Invalid recipe", "The recipe is not usable: {reason}.", "See the documentation of ports for the accepted values."),
    "recipe.no_patch_tokenizer": ErrorCode("Patch has no tokenizer", "The recipe asks for the tokenizer of the patch, but the patch brings none.", "Use tokenizer=release."),
    "recipe.partial_tokenizer": ErrorCode("Incomplete tokenizer in the patch", "The recipe asks for the tokenizer of the patch, which brings {files} and not a whole one (vocabulary and tokenizer_config.json).", "Use tokenizer=release, or publish the patch with all that the tokenizer's save_pretrained writes, or with chat_template.jinja alone."),
    # -- uploads by Xet
    "xet.block": ErrorCode("Invalid Xet block", "The block {block} cannot be used: {reason}.", "Update hf-xet and push again; with HF_HUB_DISABLE_XET=1 files are sent as they are."),
    "xet.shard": ErrorCode("Invalid Xet shard", "The shard cannot be used: {reason}.", "Update hf-xet and push again; with HF_HUB_DISABLE_XET=1 files are sent as they are."),
    "xet.digest": ErrorCode("Digest mismatch", "A file that the shard describes has sha256 {actual}, not {expected}.", "The upload was damaged; push again."),
    # -- output
    "output.exists": ErrorCode("Output exists", "{path} exists and is not an empty directory.", "Choose another directory or remove it first."),
    "output.no_space": ErrorCode("Disk full", "Writing {path} needs {needed} bytes; {free} are free.", "Free some space or choose another disk; nothing was left behind."),
    "output.unknown_file": ErrorCode("No such file", "The merged model has no file {path!r}.", "List the files of the port first."),
    "output.range": ErrorCode("Range out of bounds", "Bytes {start} to {stop} do not lie in {path!r}, which has {size}.", "Ask for a range inside the file."),
}  # fmt: skip


class CoreError(Exception):
    """A refusal by `core`.

    Attributes:
        code: stable machine name, a key of `CATALOGUE`.
        data: the named values that fill the sentence.
    """

    def __init__(self, code: str, **data: Any) -> None:
        entry = CATALOGUE[code]
        # Names from files can contain control characters, and lone surrogates, which cannot be encoded in a JSON response.
        data = {k: visible(v) if isinstance(v, str) else v for k, v in data.items()}
        self.code = code
        self.data = data
        self.title = entry.title
        self.detail = entry.detail.format(**data)
        self.remedy = entry.remedy.format(**data)
        super().__init__(self.detail)

    def __str__(self) -> str:
        return f"{self.detail} {self.remedy}"

    def to_problem(self) -> dict[str, str]:
        """The error as plain values: what a failed job keeps of it."""
        return {"code": self.code, "title": self.title, "detail": self.detail, "remedy": self.remedy}


class HeaderError(CoreError):
    """A safetensors file breaks the format."""


class CheckpointError(CoreError):
    """A base model directory cannot be used."""


class AdapterError(CoreError):
    """A patch cannot be added exactly."""


class PortError(CoreError):
    """A patch and a base do not fit each other."""


class XetError(CoreError):
    """Blocks or a shard of an upload by Xet cannot be used."""


class OutputError(CoreError):
    """The merged model cannot be written, or there is no such part of it."""
