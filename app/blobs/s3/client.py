"""The client of S3, and what its failures mean to us.

Endpoint, region and credentials come by boto3's own chain: AWS_ENDPOINT_URL_S3, AWS_REGION, AWS_ACCESS_KEY_ID, ~/.aws and so on.
"""

import datetime as dt
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from app.blobs.error_counts import noted
from app.domain.errors import DomainError

# What of the environment the chain reads; a job's process is given it only where its order names S3.
CHAIN = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_CA_BUNDLE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_EC2_METADATA_DISABLED",
    "AWS_MAX_ATTEMPTS", "HOME",
)  # fmt: skip
DEFAULT_REGION = "us-east-1"
CONNECTIONS = 32
READ_SECONDS = 60.0
ATTEMPTS = 6
IMPATIENT_SECONDS = 1.5


@dataclass(frozen=True)
class S3Options:
    """S3 options of an installation, in addition to boto3's own configuration chain.

    Attributes:
        read_seconds: read timeout: how long S3 may send nothing in the middle of a response.
        keeps_no_versions: whether a store that cannot list old versions of objects is known to keep none.
    """

    read_seconds: float = READ_SECONDS
    keeps_no_versions: bool = False


_options = S3Options()


def configure(chosen: S3Options) -> None:
    """Sets the options of this process's clients. Services, workers and job processes call it once when they start; a job
    process receives the options with its order.
    """
    global _options  # noqa: PLW0603  the client is one of the process, and so are its options
    _options = chosen


def options() -> S3Options:
    """Returns the options of this process's clients."""
    return _options


def make_client(endpoint: str = "", impatient: bool = False) -> Any:
    """A client, safe to use from several threads; for another address than the chain's where `endpoint` is given.

    One that is impatient gives up after seconds, and at the first failure.

    Checksums are sent only where the protocol demands them: older servers refuse what newer boto3 adds by itself. What we
    store is verified by its sha256 anyway.
    """
    import boto3  # noqa: PLC0415  half a second that installations without S3 need not pay
    from botocore.config import Config  # noqa: PLC0415

    attempts = os.environ.get("AWS_MAX_ATTEMPTS", ATTEMPTS)
    config = Config(
        connect_timeout=IMPATIENT_SECONDS if impatient else 5,
        read_timeout=IMPATIENT_SECONDS if impatient else _options.read_seconds,
        retries={"mode": "standard", "max_attempts": 1 if impatient else int(attempts)},
        max_pool_connections=CONNECTIONS,
        request_checksum_calculation="when_required", response_checksum_validation="when_required",
        s3={"addressing_style": "path"} if endpoint or _has_endpoint() else {}, signature_version="s3v4",
    )  # fmt: skip
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    session = boto3.session.Session(region_name=region)
    region = session.region_name or DEFAULT_REGION
    return session.client("s3", region_name=region, config=config, endpoint_url=endpoint or None)


def shared_client() -> Any:
    """The one client of a process, at the address that the chain names now: making one takes a tenth of a second."""
    return _client(False, _options, *(os.environ.get(name, "") for name in CHAIN))


def impatient_client() -> Any:
    """The same for a question whose answer is worth nothing when it comes late."""
    return _client(True, _options, *(os.environ.get(name, "") for name in CHAIN))


@cache
def _client(impatient: bool, *_: object) -> Any:
    return make_client(impatient=impatient)


@contextmanager
def translated() -> Iterator[None]:
    """Says in our words what S3 could not do.

    Raises:
        DomainError: storage.unavailable, when it did not answer, or not as it should; storage.refused, when it would not.
    """
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError  # noqa: PLC0415

    try:
        yield
    except ClientError as error:
        code, status = error.response["Error"].get("Code", "?"), status_of(error)
        # Parts that are gone were dropped by whoever took the work over, or completed by a request whose answer was lost: what
        # is there is looked at when it is tried again.
        if status >= 500 or status == 429 or code in ("SlowDown", "RequestTimeout", "NoSuchUpload"):
            raise noted(DomainError("storage.unavailable", reason=f"it answered {status} {code}")) from None
        raise noted(DomainError("storage.refused", reason=f"{error.operation_name}: {status} {code}")) from None
    except NoCredentialsError:
        raise noted(DomainError("storage.refused", reason="there are no credentials for it")) from None
    except BotoCoreError as error:
        raise noted(DomainError("storage.unavailable", reason=type(error).__name__)) from None


def status_of(error: Any) -> int:
    """The HTTP status of a `ClientError`."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def clock_of(response: Any) -> dt.datetime:
    """The present by the clock that dates objects: the server's, as its answer says; ours where it says nothing."""
    from email.utils import parsedate_to_datetime  # noqa: PLC0415  a tenth of a job's start, which most jobs need not pay

    said = response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    return parsedate_to_datetime(said) if said else dt.datetime.now(dt.UTC)


def is_missing(error: Any) -> bool:
    """Whether a `ClientError` says that there is no such object."""
    return status_of(error) == 404 or error.response["Error"].get("Code") in ("NoSuchKey", "404", "NoSuchUpload")


def _has_endpoint() -> bool:
    return bool(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"))
