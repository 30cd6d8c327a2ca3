"""Troubles that a check can find: each has a code, a subject, a sentence, and a remedy if there is one."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

SHOWN = 10_000
_BACKUP = "Restore the bytes from a backup."
_ROW = "Nothing here writes such a row. Restore the database from a backup, or correct the row."
_RETRY = "A service that runs mends it within seconds; if it stays, start the job again with 'portllm jobs retry'."
_SWEEP = "Nothing to do: the next sweep of a running service removes it."

# The second part of the code of a stuck row; the first part is the noun of the kind of job.
STUCK = "stuck"

# Remedies by code, for all codes except those of stuck rows.
REMEDIES: dict[str, str] = {
    "blob.missing": f"{_BACKUP} A patch that is published again brings its own.",
    "blob.size": _BACKUP,
    "blob.digest": f"{_BACKUP} Look at the disk or bucket first: nobody but the registry may write there.",
    "blob.unnamed": _SWEEP,
    "reference.missing": "Nothing to do: the next sweep of a running service adds them. Then run the check again.",
    "reference.stale": _SWEEP,
    "reference.wrong": "Delete the rows of the table blob_refs with this noun and row_id: the next sweep writes them anew.",
    "staging.abandoned": _SWEEP,
    "staging.orphan": _SWEEP,
    "release.unreadable": _BACKUP,
    "release.changed": "Put the file back, or register what is there now as another release. Where its bytes are the same (it "
    "was copied or restored), run 'portllm fsck --reaccept'.",
    "release.bytes": "Restore the file from a backup and run 'portllm fsck --reaccept', or register the release by another name.",
    "version.files": _ROW,
    "purge.pending": "See what the erasure waits for: 'portllm purge --verify OWNER/PATCH@N'.",
    "purge.bytes": "Purge the version again: the same request removes what is there.",
    "purge.copy": "Purge the version again: the same request removes what is there.",
    "draft.abandoned": "Nothing to do: the next sweep of a running service discards it. Is one running?",
    "draft.gone": "Send the patch again with 'portllm patch push': it begins that file anew.",
    "alias.unpublished": "Point the alias at a published version: PUT /api/v1/patches/OWNER/PATCH/aliases/ALIAS.",
    "alias.yanked": "Point the alias at another version: PUT /api/v1/patches/OWNER/PATCH/aliases/ALIAS.",
    "alias.purged": "Point the alias at another version: PUT /api/v1/patches/OWNER/PATCH/aliases/ALIAS.",
    "port.version": "Retire the port, and port a published version.",
    "port.release": "Retire the port, and port the patch to a release that is ready.",
    "port.findings": "Retire the port and ask for it again: it is judged anew.",
    "port.recipe": _ROW,
    "port.fingerprint": "Retire the port and ask for it again. What was written or pulled under the old fingerprint may differ.",
    "commit.files": "Remove the row from the table commits: what is asked for again is written again.",
    "materialisation.missing": "Ask for the merged model at another place, or put the file back.",
    "materialisation.size": "Remove the file and ask for the merged model at another place.",
}


@dataclass(frozen=True)
class Trouble:
    """One thing that is not as it should be: a code, what it is about, a sentence."""

    code: str
    subject: str
    detail: str

    @property
    def remedy(self) -> str:
        return _RETRY if self.code.endswith(f".{STUCK}") else REMEDIES[self.code]

    def to_dict(self) -> dict[str, str]:
        return {"code": self.code, "subject": self.subject, "detail": self.detail, "remedy": self.remedy}


@dataclass(frozen=True)
class Unseen:
    """Something that could not be looked at, and why: neither well nor in trouble."""

    subject: str
    reason: str

    def to_dict(self) -> dict[str, str]:
        return {"subject": self.subject, "reason": self.reason}


Found = Trouble | Unseen


@dataclass
class Report:
    """All that was found: how many of each code there are, and the first ten thousand in full."""

    counts: Counter[str] = field(default_factory=Counter)
    troubles: list[Trouble] = field(default_factory=list)
    unseen: list[Unseen] = field(default_factory=list)
    unseen_count: int = 0

    def add(self, found: Found) -> None:
        if isinstance(found, Trouble):
            self.counts[found.code] += 1
            if len(self.troubles) < SHOWN:
                self.troubles.append(found)
        else:
            self.unseen_count += 1
            if len(self.unseen) < SHOWN:
                self.unseen.append(found)

    @property
    def clean(self) -> bool:
        return not self.counts

    def to_dict(self) -> dict[str, Any]:
        return {
            "clean": self.clean,
            "counts": dict(sorted(self.counts.items())),
            "troubles": [trouble.to_dict() for trouble in self.troubles],
            "unseen_count": self.unseen_count,
            "unseen": [unseen.to_dict() for unseen in self.unseen],
        }
