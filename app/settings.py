"""Settings: read from the environment (PORTLLM_...) and the command line by the roots, handed down as values."""

import ipaddress
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from app.blobs.s3.client import READ_SECONDS, S3Options
from app.db.engine import CONNECTIONS, COUNTER_CONNECTIONS, JOB_CONNECTIONS
from app.domain.errors import DomainError
from app.domain.issuers import Issuer
from app.domain.quotas import Quota
from app.domain.s3_uri import S3Uri
from app.services.access.rate_limits import RateLimits
from app.services.events.feed import StreamLimits
from app.services.operations.retention import Retention
from app.services.tools import Limits
from app.setting_types import Days, Key, Natural, Positive, RateText, Seconds

SQLITE = "sqlite:///"
POSTGRESQL = "postgresql+psycopg://"


class Settings(BaseSettings):
    """Everything an installation can choose.

    Attributes:
        data: directory of the embedded default: database, blobs, secret key, admin token.
        database_url: where metadata and jobs are kept; SQLite in the data directory by default, or postgresql+psycopg://...
        database_connections: the maximum number of PostgreSQL connections that a process opens to answer requests. Fewer than
            its threads, because a request holds one for milliseconds; see docs/operations.md for the sum over all processes.
        database_counter_connections: the same for the counters of rate limits.
        database_job_connections: the same for the job engine.
        blobs: where bytes are kept: s3://bucket/prefix, or empty for the data directory. Endpoint, region and credentials of
            S3 come by boto3's own chain (AWS_ENDPOINT_URL_S3, AWS_ACCESS_KEY_ID, ...).
        direct_transfers: whether clients may send bytes straight to S3 and fetch them there.
        s3_public_endpoint: where clients reach S3, if not at the address that this service uses.
        s3_read_timeout: how many seconds S3 may send nothing in the middle of a response.
        s3_keeps_no_versions: whether an S3 store that cannot list old versions of objects is known to keep none.
        allow_roots: directories that releases may be registered from.
        allow_s3: s3://bucket/prefix places that releases may be registered from and models materialised to.
        secret_key: signs the URLs of workers and encrypts stored secrets (tokens for upstreams). A random text of 32 bytes or
            more; a shorter one is refused. If unset, one is generated in the data directory, which replicas do not share.
        secret_keys_accepted: further keys of at least the same length. Their signatures are accepted, and data encrypted under
            them is decrypted. To rotate the key: let all processes accept the new one first, then let them sign with it and
            accept the old one, then run `portllm db reencrypt` and remove the old one.
        metrics_token: the token that clients send for /metrics; if unset, /metrics answers only requests from this machine.
        metrics_owners: how many owners have their own series in metrics; all others share the series "(other)".
        jobs: whether this process runs jobs; by default only on SQLite, where no worker can.
        job_concurrency: how many jobs run at once.
        job_poll_seconds: how often a worker looks for jobs; four small statements each time.
        worker_beat_seconds: how often a worker says that it lives.
        worker_ttl_seconds: how long after its last sign of life its jobs are given to another.
        merged_reads: how many merged files may be computed for readers at once; with 0, only workers compute them.
        merged_reads_per_owner: how many of them of models of one owner; half of them by default.
        far_reads: how many large files may be read from an object store through the service at once.
        far_reads_per_owner: how many of them one owner may read; half of `far_reads` by default.
        event_streams: How many live streams of events each process serves at once.
        event_streams_per_owner: How many of them one owner may have.
        event_stream_seconds: How long a stream lasts; clients reconnect and resume where it ended.
        checks: how many patches may be checked at once when they are published or ported; further requests are refused as busy.
        checks_per_owner: how many of them may be patches of one owner; half of `checks` by default.
        request_threads: how many requests a process handles at once, in worker threads.
        requests_per_owner: how many of them one owner may have, or one address whose tokens are not known yet; a quarter of
            `request_threads` by default. Further requests wait a few seconds, first in, first out, and are then refused
            (server.busy).
        publishes: how many uploads and pushes a process verifies at once.
        publishes_per_owner: how many of them one owner may have; half of `publishes` by default.
        rate_limit: how many requests an owner may make: "N/second", "N/minute" or "N/hour"; empty: any number. Generous by
            default: a client that runs in circles is stopped before it takes everything, none that works is.
        rate_limit_writes: the same for requests that may change something; off by default, because the files of a patch are
            a request each, and quotas bound what stays.
        rate_limit_failures: how many requests without a valid token an address may make; requests with a valid token from the
            same address are not affected.
        quota_bytes, quota_patches, quota_versions, quota_drafts, quota_ports, quota_tokens, quota_jobs: the default quotas of an
            owner, unless an admin set others for it; 0: no limit. Of jobs, only waiting ones count.
        verify_bytes_per_hour: how many randomly chosen bytes of releases by reference are hashed again each hour; 0: none.
        keep_jobs_days: for how long finished jobs are kept, with everything that the job engine recorded about them. For this
            and the following settings, 0 means for ever.
        keep_imports_days: for how long imports are kept that were refused, cancelled, or found existing content. An import that
            created a version is kept with it, but its requester is cleared.
        keep_discarded_days: for how long discarded drafts are kept.
        keep_idempotency_keys_days: for how long the answer to a request with an Idempotency-Key is kept.
        trusted_proxies: addresses and networks of proxies whose X-Forwarded-For is believed; by default nobody's is.
        head_seconds: how long a client may take to send the head of a request.
        idle_seconds: how long a client may send nothing of a body that it began, or take nothing of an answer.
        drain_delay_seconds: how long a stopping service or worker still accepts connections after `/readyz` answers 503; should
            be longer than the load balancer takes to notice. 0: the listener closes at once.
        drain_seconds: how long requests in progress, such as merged downloads, may continue after that before they are cut off.
        warm: whether a service loads torch at its start, so that the first read of a merged model need not wait two seconds for
            it; without, it is loaded when it is needed, and a service whose reads go to workers needs 170 MB less.
        max_patch_bytes: largest patch, all its files together.
        max_body_bytes: largest JSON body of a list of files or a card; all other JSON bodies are limited to 64 KiB.
        body_bytes: how many bytes of request bodies one process holds in memory at once; further requests are refused with
            request.bodies_busy. A streamed body counts as the piece that is written at a time (1 MiB; 8 MiB on S3).
        body_bytes_per_owner: how many of them may come from one owner; half of `body_bytes` by default.
        body_rate: the minimum rate in bytes a second at which a client must send a body, on average over every
            `body_rate_seconds`; slower connections are closed. 0: no minimum.
        body_rate_seconds: the averaging window of `body_rate`; a body may take this long however slowly it is sent.
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
    database_connections: Annotated[int, Field(ge=2)] = CONNECTIONS
    database_counter_connections: Positive = COUNTER_CONNECTIONS
    database_job_connections: Annotated[int, Field(ge=2)] = JOB_CONNECTIONS
    blobs: str = ""
    direct_transfers: bool = True
    s3_public_endpoint: str = ""
    s3_read_timeout: Seconds = READ_SECONDS
    s3_keeps_no_versions: bool = False
    allow_roots: list[Path] = Field(default_factory=list)
    allow_s3: list[str] = Field(default_factory=list)
    secret_key: Key | None = None
    secret_keys_accepted: list[Key] = Field(default_factory=list)
    metrics_token: SecretStr = SecretStr("")
    metrics_owners: Annotated[int, Field(ge=0, le=10_000)] = 50
    jobs: bool | None = None
    job_concurrency: Positive = 1
    job_poll_seconds: Annotated[float, Field(ge=0.01, le=60)] = 0.2
    worker_beat_seconds: Seconds = 3.0
    worker_ttl_seconds: Seconds = 15.0
    merged_reads: Annotated[int, Field(ge=0)] = 16
    merged_reads_per_owner: Positive | None = None
    far_reads: Positive = 16
    far_reads_per_owner: Positive | None = None
    event_streams: Positive = 1000
    event_streams_per_owner: Positive = 50
    event_stream_seconds: Seconds = 3600.0
    checks: Positive = 16
    checks_per_owner: Positive | None = None
    request_threads: Annotated[int, Field(ge=4)] = 40
    requests_per_owner: Positive | None = None
    publishes: Positive = 8
    publishes_per_owner: Positive | None = None
    rate_limit: RateText = "60000/minute"
    rate_limit_writes: RateText = ""
    rate_limit_failures: RateText = "60/minute"
    quota_bytes: Natural = 0
    quota_patches: Natural = 0
    quota_versions: Natural = 0
    quota_drafts: Natural = 1000
    quota_ports: Natural = 0
    quota_tokens: Natural = 0
    quota_jobs: Natural = 2000
    verify_bytes_per_hour: Natural = 2**30
    keep_jobs_days: Days = 30
    keep_imports_days: Days = 30
    keep_discarded_days: Days = 30
    keep_idempotency_keys_days: Days = 1
    trusted_proxies: list[str] = Field(default_factory=list)
    head_seconds: Seconds = 15.0
    idle_seconds: Seconds = 120.0
    drain_delay_seconds: Annotated[float, Field(ge=0, le=3600)] = 0.0
    drain_seconds: Annotated[float, Field(ge=0, le=86400)] = 10.0
    warm: bool = True
    max_patch_bytes: Positive = 16 * 2**30
    max_patch_files: Positive = 10_000
    max_body_bytes: Positive = 8 * 2**20
    body_bytes: Positive = 512 * 2**20
    body_bytes_per_owner: Positive | None = None
    body_rate: Natural = 4096
    body_rate_seconds: Seconds = 60.0
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

    @field_validator("trusted_proxies")
    @classmethod
    def _known_proxies(cls, proxies: list[str]) -> list[str]:
        try:
            return [str(ipaddress.ip_network(proxy)) if "/" in proxy else str(ipaddress.ip_address(proxy)) for proxy in proxies]
        except ValueError:  # its text would show the value
            raise ValueError("must list addresses and networks, such as 10.0.0.1 and 10.1.0.0/16") from None

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
        if not self.max_body_bytes <= self.body_bytes_of_one <= self.body_bytes:
            names = ("PORTLLM_MAX_BODY_BYTES", "PORTLLM_BODY_BYTES_PER_OWNER", "PORTLLM_BODY_BYTES")
            raise ValueError("{} must be at most {}, and that at most {}".format(*names))
        return self

    @property
    def is_embedded(self) -> bool:
        """One process on SQLite, which upgrades its schema and runs its jobs by itself."""
        return self.database_url.startswith("sqlite")

    @property
    def merged_reads_of_one(self) -> int:
        """How many merged files of one owner may be computed for readers at once."""
        return self.merged_reads_per_owner or max(1, self.merged_reads // 2)

    @property
    def body_bytes_of_one(self) -> int:
        """How many bytes of bodies of one owner a process holds at once."""
        return self.body_bytes_per_owner or max(self.body_bytes // 2, min(self.max_body_bytes, self.body_bytes))

    @property
    def far_reads_of_one(self) -> int:
        """How many large files one owner may read from an object store at once."""
        return self.far_reads_per_owner or max(1, self.far_reads // 2)

    @property
    def stream_limits(self) -> StreamLimits:
        """The limits on live streams of events."""
        return StreamLimits(self.event_streams, self.event_streams_per_owner, self.event_stream_seconds)

    @property
    def checks_of_one(self) -> int:
        """How many patches of one owner may be checked at once."""
        return self.checks_per_owner or max(1, self.checks // 2)

    @property
    def requests_of_one(self) -> int:
        """How many requests of one owner may be in worker threads at once."""
        return self.requests_per_owner or self.request_threads // 4

    @property
    def publishes_of_one(self) -> int:
        """How many uploads and pushes of one owner may be verified at once."""
        return self.publishes_per_owner or max(1, self.publishes // 2)

    @property
    def rate_limits(self) -> RateLimits:
        """How many requests there may be, of whom."""
        return RateLimits(self.rate_limit, self.rate_limit_writes, self.rate_limit_failures)

    @property
    def s3(self) -> S3Options:
        """The S3 options of this installation, in addition to boto3's own configuration chain."""
        return S3Options(self.s3_read_timeout, self.s3_keeps_no_versions)

    @property
    def retention(self) -> Retention:
        """How long finished rows are kept."""
        return Retention(self.keep_jobs_days, self.keep_imports_days, self.keep_discarded_days, self.keep_idempotency_keys_days)

    @property
    def limits(self) -> Limits:
        """What one request may ask for, and what an owner may have."""
        quota = Quota(
            self.quota_bytes,
            self.quota_patches,
            self.quota_versions,
            self.quota_drafts,
            self.quota_ports,
            self.quota_tokens,
            self.quota_jobs,
        )
        return Limits(self.max_patch_bytes, self.max_patch_files, self.max_page, quota)


def _is_place(address: str) -> bool:
    try:
        S3Uri.parse(address)
    except DomainError:
        return False
    return True
