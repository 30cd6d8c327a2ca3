"""Types of settings, each with the bounds that are checked when settings are read."""

from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from app.domain.signing import MIN_KEY_BYTES
from app.services.access.rate_limits import Rate

KEY_COMMAND = "openssl rand -hex 32"

Positive = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0, lt=2**63)]
Days = Annotated[int, Field(ge=0, le=36_500)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _checked_rate(limit: str) -> str:
    if limit:
        Rate.parse(limit)
    return limit


RateText = Annotated[str, AfterValidator(_checked_rate)]


def _checked_key(key: SecretStr) -> SecretStr:
    """Refuses a guessable key: one known signature is enough to test guesses offline, at any speed."""
    if len(key.get_secret_value().encode()) < MIN_KEY_BYTES:
        raise ValueError(f"must have {MIN_KEY_BYTES} bytes or more. Make one with: {KEY_COMMAND}")
    return key


Key = Annotated[SecretStr, AfterValidator(_checked_key)]
