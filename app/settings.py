"""Settings: read from the environment (PORTLLM_...) and the command line by the roots, handed down as values."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from app.domain.errors import DomainError
from app.domain.issuers import Issuer
from app.domain.places import Place

SQLITE = "sqlite:///"
POSTGRESQL = "postgresql+psycopg://"

Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


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
        merged_reads: how many merged files may be streamed at once; 0 leaves all of them to workers.
        max_patch_bytes: largest patch, all its files together.
        max_body_bytes: largest JSON body.
        oidc: issuers of identity tokens (OpenID Connect) that are trusted, and rules that say whom of theirs to let in as what:
            [{"issuer": "https://issuer.example", "audience": "portllm", "client_id": "portllm-cli",
              "rules": [{"claims": {"groups": "ml-team"}, "owner": "acme", "role": "publisher"}]}], see `app.domain.issuers`.
        oidc_max_lifetime_seconds: how long a token that is given out for an identity token is valid at most.
        log_format: "text" for people, "json" for machines.
        log_level: "debug", "info" or "warning" for our own lines; by default what suits the format.
    """

    model_config = SettingsConfigDict(env_prefix="PORTLLM_", hide_input_in_errors=True)

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
    job_concurrency: Positive = 1
    worker_beat_seconds: Seconds = 3.0
    worker_ttl_seconds: Seconds = 15.0
    merged_reads: Annotated[int, Field(ge=0)] = 16
    max_patch_bytes: Positive = 16 * 2**30
    max_patch_files: Positive = 10_000
    max_body_bytes: Positive = 8 * 2**20
    max_page: Positive = 500
    oidc: list[Issuer] = Field(default_factory=list)
    oidc_max_lifetime_seconds: Annotated[int, Field(ge=60)] = 12 * 3600
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["", "debug", "info", "warning"] = ""

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, url: str) -> str:
        if not url:
            return url
        if not url.startswith((SQLITE, POSTGRESQL)):
            raise ValueError(f"must begin with {POSTGRESQL} or {SQLITE}")
        try:
            make_url(url)
        except (ArgumentError, ValueError):  # its text would show the address, and so a password
            raise ValueError(f"must be an address such as {POSTGRESQL}USER:PASSWORD@HOST:5432/NAME") from None
        return url

    @field_validator("blobs")
    @classmethod
    def _known_store(cls, place: str) -> str:
        if place and not _is_place(place):
            raise ValueError("must be s3://BUCKET/PREFIX, or empty for the data directory")
        return place

    @field_validator("allow_s3")
    @classmethod
    def _known_places(cls, places: list[str]) -> list[str]:
        if not all(map(_is_place, places)):
            raise ValueError("must list places of the form s3://BUCKET/PREFIX")
        return places

    @field_validator("oidc")
    @classmethod
    def _each_issuer_once(cls, issuers: list[Issuer]) -> list[Issuer]:
        if len({trusted.issuer for trusted in issuers}) < len(issuers):
            raise ValueError("must name every issuer once, with all its rules")
        return issuers

    @model_validator(mode="after")
    def _embedded_default(self) -> Self:
        if not self.database_url:
            self.database_url = f"{SQLITE}{self.data.resolve() / 'portllm.db'}"
        if self.jobs is None:
            self.jobs = self.is_embedded
        return self

    @model_validator(mode="after")
    def _fit_each_other(self) -> Self:
        if self.worker_beat_seconds >= self.worker_ttl_seconds:
            raise ValueError("PORTLLM_WORKER_BEAT_SECONDS must be less than PORTLLM_WORKER_TTL_SECONDS")
        if self.is_embedded and self.merged_reads == 0:
            raise ValueError("PORTLLM_MERGED_READS must be 1 or more on SQLite, where no worker reads in the service's place")
        return self

    @property
    def is_embedded(self) -> bool:
        """One process on SQLite, which upgrades its schema and runs its jobs by itself."""
        return self.database_url.startswith("sqlite")


def _is_place(address: str) -> bool:
    try:
        Place.parse(address)
    except DomainError:
        return False
    return True
