"""A patch as PEFT's save_pretrained leaves it: which of its files count, and what they say."""

from collections.abc import Mapping
from dataclasses import dataclass

from app.core.adapter import CONFIG_FILE, MAX_CONFIG_BYTES, WEIGHTS_FILE, load_config
from app.core.arithmetic import Arithmetic
from app.core.checkpoint import Checkpoint
from app.core.delta import Adapter, Delta, PatchConfig, PatchKind
from app.core.errors import AdapterError
from app.core.patch_kinds import patch_kind
from app.core.safetensors_header import DTYPE_BYTES, Header, HeaderLimits, TensorInfo
from app.core.source import Source, read_header, read_range
from app.core.tokenizers import TOKENIZER_FILES

CARD_FILE = "README.md"
KEPT_FILES = TOKENIZER_FILES | {CONFIG_FILE, WEIGHTS_FILE, CARD_FILE}
PICKLED_WEIGHTS = ("adapter_model.bin", "adapter_model.pt", "adapter_model.pth")
CHECK_BYTES = 8 * 2**20
# An adapter on all 882 linear modules of a model of 405 B parameters has 1,764 tensors and a header of 0.3 MB. At these limits a
# header costs 0.4 s and 40 MiB to parse.
HEADER_LIMITS = HeaderLimits(length=4 * 2**20, tensors=20_000)


@dataclass(frozen=True)
class Patch:
    """A readable patch: configuration, tensors, and the sizes in bytes of the files that belong to it."""

    kind: PatchKind
    config: PatchConfig
    header: Header
    adapter: Adapter
    files: Mapping[str, int]

    def resolve(self, base: Checkpoint) -> tuple[Delta, ...]:
        """Matches the patch to a base from headers alone, see `Adapter.resolve`.

        Raises:
            AdapterError, PortError: the patch does not fit, or adapter.prepass.
        """
        if self.adapter.needs_prepass:
            raise AdapterError("adapter.prepass", peft_type=self.kind.peft_type)
        return self.adapter.resolve(base)


def choose_files(files: Mapping[str, int]) -> tuple[dict[str, int], list[str]]:
    """Tells the files of a patch from what a training run leaves beside them.

    Returns:
        The files that belong to the patch, and the names of those that are left out.

    Raises:
        AdapterError: adapter.missing_file, adapter.pickle.
    """
    kept = {path: size for path, size in files.items() if path in KEPT_FILES}
    if WEIGHTS_FILE not in kept:
        for path in PICKLED_WEIGHTS:
            if path in files:
                raise AdapterError("adapter.pickle", path=path)
    for path in (CONFIG_FILE, WEIGHTS_FILE):
        if path not in kept:
            raise AdapterError("adapter.missing_file", path=path)
    return kept, sorted(set(files) - set(kept))


def read_patch(source: Source, files: Mapping[str, int]) -> Patch:
    """Reads configuration and header of a patch; the factors' values are not read.

    Raises:
        AdapterError, HeaderError: the patch cannot be added exactly.
    """
    kept, _ = choose_files(files)
    length = min(kept[CONFIG_FILE], MAX_CONFIG_BYTES + 1)
    raw = load_config(bytes(read_range(source, CONFIG_FILE, 0, length)))
    kind = patch_kind(raw)
    config = kind.parse(raw)
    header = read_header(source, WEIGHTS_FILE, HEADER_LIMITS)
    return Patch(kind, config, header, kind.match(config, header), kept)


def run_prepass(
    patch: Patch, source: Source, base: Checkpoint, base_source: Source, arithmetic: Arithmetic
) -> Mapping[str, bytes] | None:
    """Returns the result of `Adapter.prepass`, or None if the patch's kind has no prepass.

    Args:
        patch, source: the patch and its files.
        base, base_source: the base and its files.
        arithmetic: computes.
    """

    def read(tensor: TensorInfo) -> bytearray:
        return read_range(source, WEIGHTS_FILE, patch.header.data_start + tensor.begin, tensor.nbytes)

    def read_base(tensor: TensorInfo) -> bytearray:
        path = base.shard_of[tensor.name]
        return read_range(base_source, path, base.shards[path].data_start + tensor.begin, tensor.nbytes)

    return patch.adapter.prepass(base, read_base, read, arithmetic) if patch.adapter.needs_prepass else None


def check_finite(patch: Patch, source: Source, arithmetic: Arithmetic) -> None:
    """Reads all factors once, in bounded memory.

    Raises:
        AdapterError: adapter.non_finite.
    """
    for tensor in patch.header.tensors:
        count, step = 0, CHECK_BYTES // DTYPE_BYTES[tensor.dtype] * DTYPE_BYTES[tensor.dtype]
        for start in range(0, tensor.nbytes, step):
            offset = patch.header.data_start + tensor.begin + start
            data = read_range(source, WEIGHTS_FILE, offset, min(step, tensor.nbytes - start))
            count += arithmetic.count_non_finite(data, tensor.dtype)
        if count:
            raise AdapterError("adapter.non_finite", tensor=tensor.name, count=count)
