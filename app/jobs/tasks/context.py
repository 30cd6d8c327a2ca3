"""The context of a task, in addition to its order: the device to compute on, and the reporting of progress."""

from dataclasses import dataclass
from typing import Protocol


class ReportProgress(Protocol):
    """Reports progress: how many bytes and tensors more are done."""

    def __call__(self, more: int, tensors: int = 0, /) -> None: ...


class StartReport(Protocol):
    """Starts a progress report, given the total in bytes, a short label and, if tensors are counted, their number."""

    def __call__(self, total: int, note: str, tensors: int | None = None, /) -> ReportProgress: ...


@dataclass(frozen=True)
class TaskContext:
    """The context of a task.

    Attributes:
        start_report: starts a report of progress.
        device: where merged bytes are computed, by its name for torch.
    """

    start_report: StartReport
    device: str = "cpu"
