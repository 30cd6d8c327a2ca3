"""A service whose bytes lie in S3."""

from dataclasses import dataclass
from pathlib import Path

from tests.support.s3 import S3Server
from tests.support.service_process import Service, invoke


@dataclass(frozen=True)
class Cloud:
    """A service, its S3 server and bucket; `upstream` is where releases lie, `exports` where models may be written."""

    service: Service
    s3: S3Server
    bucket: str
    models: Path

    @property
    def upstream(self) -> str:
        return f"s3://{self.bucket}/upstream"

    @property
    def exports(self) -> str:
        return f"s3://{self.bucket}/exports"

    def run(self, *arguments: str | Path) -> str:
        """Runs a verb that must succeed; what it said."""
        ended = invoke(*arguments, **self.service.variables())
        assert ended.exit_code == 0, (arguments, ended.output)
        return ended.stdout

    def refused(self, *arguments: str | Path) -> str:
        """Runs a verb that must be refused; the sentence."""
        ended = invoke(*arguments, **self.service.variables())
        assert ended.exit_code != 0, (arguments, ended.output)
        return ended.stderr
