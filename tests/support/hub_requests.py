"""Asking over the Hub protocol as its clients do, in this process."""

from dataclasses import dataclass
from typing import Any

import httpx

from tests.support.registry import Caller

CODE, MESSAGE, COMMIT = "X-Error-Code", "X-Error-Message", "X-Repo-Commit"


@dataclass(frozen=True)
class Hub:
    """A caller at the root."""

    caller: Caller

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.caller("GET", path, whole=True, **options)

    def head(self, path: str, **options: Any) -> httpx.Response:
        return self.caller("HEAD", path, whole=True, **options)

    def info(self, repository: str, revision: str = "main", **query: Any) -> dict[str, Any]:
        found = self.get(f"/api/models/{repository}/revision/{revision}", params=query)
        assert found.status_code == 200, found.text
        return dict(found.json())

    def sha(self, repository: str, revision: str = "main") -> str:
        return str(self.info(repository, revision)["sha"])

    def file(self, repository: str, revision: str, path: str, **options: Any) -> httpx.Response:
        return self.get(f"/{repository}/resolve/{revision}/{path}", **options)

    def tree(self, repository: str, revision: str = "main", path: str = "", **query: Any) -> list[dict[str, Any]]:
        found = self.get(f"/api/models/{repository}/tree/{revision}{path and '/' + path}", params=query)
        assert found.status_code == 200, found.text
        return list(found.json())


def refused_by_hub(answer: httpx.Response, status: int, kind: str | None, code: str) -> str:
    """Asserts a refusal in the words of the Hub and in ours; what clients print."""
    assert answer.status_code == status, (answer.status_code, answer.text)
    assert answer.headers.get(CODE) == kind
    problem = answer.json()
    assert problem["code"] == code
    assert problem["status"] == status
    assert problem["error"] == answer.headers[MESSAGE]
    return str(problem["error"])
