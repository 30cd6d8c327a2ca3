"""The names of all environment variables `PORTLLM_...`: settings, and those of the command line, plug-ins, Compose and tests."""

import difflib
import re
from collections.abc import Iterable, Mapping

PREFIX = "PORTLLM_"
CLIENT = frozenset({"PORTLLM_URL", "PORTLLM_TOKEN", "PORTLLM_ID_TOKEN"})
VLLM = frozenset({"PORTLLM_VLLM_BASE", "PORTLLM_VLLM_CACHE", "PORTLLM_VLLM_CACHE_BYTES", "PORTLLM_VLLM_TIMEOUT_SECONDS"})
COMPOSE = frozenset({"PORTLLM_IMAGE_TAG", "PORTLLM_BIND", "PORTLLM_MEMORY", "PORTLLM_CPUS", "PORTLLM_STOP_GRACE"})
TESTS = frozenset({"PORTLLM_CLIENTS", "PORTLLM_FUZZ_SECONDS", "PORTLLM_SOAK_ROUNDS", "PORTLLM_SOAK_SEED"})
TEST_PREFIX = "PORTLLM_TEST_"
# Kubernetes sets these in every container for a Service whose name begins with "portllm".
SERVICE_LINK = re.compile(r"PORTLLM_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")


def unknown(environment: Mapping[str, str], settings: Iterable[str]) -> dict[str, str | None]:
    """Finds the variables `PORTLLM_...` of an environment that no part of the product reads.

    Args:
        environment: names and values of all variables.
        settings: the field names of the settings.

    Returns:
        Each unknown name with the nearest valid name, or None if no valid name is similar.
    """
    known = {PREFIX + field.upper() for field in settings} | CLIENT | VLLM
    accepted = known | COMPOSE | TESTS
    found: dict[str, str | None] = {}
    for name in sorted(environment):
        upper = name.upper()  # names of settings are case-insensitive
        is_ours = upper.startswith(PREFIX) and not upper.startswith(TEST_PREFIX)
        if is_ours and upper not in accepted and not _is_service_link(upper, environment[name]):
            nearest = difflib.get_close_matches(
                upper.removeprefix(PREFIX), [each.removeprefix(PREFIX) for each in sorted(known)], n=1
            )
            found[name] = PREFIX + nearest[0] if nearest else None
    return found


def _is_service_link(name: str, value: str) -> bool:
    return bool(SERVICE_LINK.fullmatch(name)) and (not name.endswith("_PORT") or "://" in value or name.count("_PORT") > 1)
