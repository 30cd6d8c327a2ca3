"""Settings: read from the environment (PORTLLM_...) and the command line by the roots, handed down as values."""

from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

SQLITE = "sqlite:///"
POSTGRESQL = "postgresql+psycopg://"


class Settings(BaseSettings):
    """Everything an installation can choose.

    Attributes:
        data: directory of the embedded default: database, blobs, secret key, admin token.
        database_url: where metadata and jobs are kept; SQLite in the data directory by default, or postgresql+psycopg://...
        blobs: where bytes are kept: s3://bucket/prefix, or empty for the data directory. Endpoint, region and credentials of
            S3 come by boto3's own chain (AWS_ENDPOINT_URL_S3, AWS_ACCESS_KEY_ID, ...).
        direct_transfers: whether clients may send bytes straight to S3 and fetch them there.
        s3_public_endpoint: where clients reach S3, if not at the address that this service uses.
        allow_roots: directories that releases may be registered from.
        allow_s3: s3://bucket/prefix places that releases may be registered from and models materialised to.
        secret_key: signs the addresses of workers; made in the data directory where not given, which replicas do not share.
        metrics_token: what clients from elsewhere send for /metrics; without it, it answers this machine alone.
        jobs: whether this process runs jobs; by default only on SQLite, where no worker can.
        job_concurrency: how many jobs run at once.
        worker_beat_seconds: how often a worker says that it lives.
        worker_ttl_seconds: how long after its last sign of life its jobs are given to another.
        merged_reads: how many merged files may be streamed at once.
        max_patch_bytes: largest patch, all its files together.
        max_body_bytes: largest JSON body.
        log_format: "text" for people, "json" for machines.
        log_level: "debug", "info" or "warning" for our own lines; by default what suits the format.
    """

    model_config = SettingsConfigDict(env_prefix="PORTLLM_")

    data: Path = Path("portllm-data")
    database_url: str = ""
    blobs: str = ""
    direct_transfers: bool = True
    s3_public_endpoint: str = ""
    allow_roots: list[Path] = Field(default_factory=list)
    allow_s3: list[str] = Field(default_factory=list)
    secret_key: SecretStr | None = None
    metrics_token: SecretStr = SecretStr("")
    jobs: bool | None = None
    job_concurrency: int = 1
    worker_beat_seconds: float = 3.0
    worker_ttl_seconds: float = 15.0
    merged_reads: int = 16
    max_patch_bytes: int = 16 * 2**30
    max_patch_files: int = 10_000
    max_body_bytes: int = 8 * 2**20
    max_page: int = 500
    log_format: str = Field("text", pattern="^(text|json)$")
    log_level: str = Field("", pattern="^(|debug|info|warning)$")

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, url: str) -> str:
        if url and not url.startswith((SQLITE, POSTGRESQL)):
            raise ValueError(f"it must begin with {POSTGRESQL} or {SQLITE}")
        return url

    @field_validator("blobs")
    @classmethod
    def _known_store(cls, place: str) -> str:
        if place and not place.startswith("s3://"):
            raise ValueError("it must begin with s3://, or be empty for the data directory")
        return place

    @model_validator(mode="after")
    def _embedded_default(self) -> Self:
        if not self.database_url:
            self.database_url = f"{SQLITE}{self.data.resolve() / 'portllm.db'}"
        if self.jobs is None:
            self.jobs = self.is_embedded
        return self

    @property
    def is_embedded(self) -> bool:
        """One process on SQLite, which upgrades its schema and runs its jobs by itself."""
        return self.database_url.startswith("sqlite")
