"""What a task is given beside its order: the device to compute on, and how to report progress."""

from dataclasses import dataclass
from typing import Protocol


class ReportProgress(Protocol):
    """Reports progress: how many bytes and tensors more are done."""

    def __call__(self, more: int, tensors: int = 0, /) -> None: ...


class StartReport(Protocol):
    """Starts a report: the total in bytes, a word or two for what is done, and the number of tensors where they are counted."""

    def __call__(self, total: int, note: str, tensors: int | None = None, /) -> ReportProgress: ...


@dataclass(frozen=True)
class TaskContext:
    """The surroundings of a task.

    Attributes:
        start_report: starts a report of progress.
        device: where merged bytes are computed, by its name for torch.
    """

    start_report: StartReport
    device: str = "cpu"
