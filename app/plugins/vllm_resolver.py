"""A LoRA resolver for vLLM: unknown models are asked of the registry, for the base release that the engine serves.

Written after vLLM 0.33.0: `vllm/lora/resolver.py`, `vllm/entrypoints/openai/models/serving.py`. There `resolve_lora` returns None
for what is not found, the client then gets a 404 and the next resolver is asked; an exception would be a 500, and the end of
asking. So every refusal is None here, with its code in the log. vLLM remembers what it loaded by name until it is
unloaded: `OWNER/PATCH@N` is never another version, `OWNER/PATCH` is the newest one of the first time that somebody asked.

    PORTLLM_VLLM_BASE             base/FAMILY@RELEASE that the engine serves; without it the plug-in stays away
    PORTLLM_URL, PORTLLM_TOKEN    the registry; where the first is not set, HF_ENDPOINT and HF_TOKEN
    PORTLLM_VLLM_CACHE            a directory on a local disk; default: portllm/vllm in the user's cache
    PORTLLM_VLLM_CACHE_BYTES      default: 20 GB
    PORTLLM_VLLM_TIMEOUT_SECONDS  for one adapter, the download too; default: 60
"""

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from app.plugins.adapter_cache import AdapterCache, key_of
from app.plugins.adapter_source import CONFIG, Base, Name, Registry, check_config
from app.plugins.refusals import BusyError, Deadline, RefusedError

RESOLVER_NAME = "PortLLM Registry"
BASE_VARIABLE = "PORTLLM_VLLM_BASE"
CACHE_BYTES, TIMEOUT_SECONDS = 20 * 10**9, 60.0
# A slow registry holds up those who ask it, not what else vLLM does in threads.
THREADS = 4
PAUSE_SECONDS = 1.0

log = logging.getLogger("vllm.portllm_resolver")  # below vLLM's own, so that it is shown where that is


@dataclass(frozen=True)
class Options:
    """What the environment says."""

    base: Base
    url: str
    token: str = field(repr=False)
    cache: Path
    cache_bytes: int
    timeout_seconds: float

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Self | None:
        """None where the plug-in is not wanted.

        Raises:
            ValueError: names the variable that cannot be.
        """
        text = environment.get(BASE_VARIABLE, "").strip()
        if not text:
            return None
        try:
            base = Base.parse(text)
        except ValueError as error:
            raise ValueError(f"{BASE_VARIABLE}: {error}.") from None
        url, token = _registry(environment)
        home = environment.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return cls(
            base=base, url=url, token=token,
            cache=Path(environment.get("PORTLLM_VLLM_CACHE") or Path(home) / "portllm" / "vllm").absolute(),
            cache_bytes=int(_number(environment, "PORTLLM_VLLM_CACHE_BYTES", CACHE_BYTES)),
            timeout_seconds=_number(environment, "PORTLLM_VLLM_TIMEOUT_SECONDS", TIMEOUT_SECONDS),
        )  # fmt: skip


class AdapterResolver:
    """Finds, fetches and verifies adapters; knows nothing of vLLM."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._registry = Registry(options.url, options.token)
        self._cache = AdapterCache(options.cache, options.cache_bytes)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="portllm-resolver")

    async def resolve(self, base_model_name: str, lora_name: str) -> tuple[Path, int] | None:
        """The directory of an adapter and a number for it (at least 1); None, and a line in the log, where there is none."""
        work = partial(self._resolve, base_model_name, lora_name, Deadline(self._options.timeout_seconds))
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except RefusedError as error:
            level = logging.INFO if error.code == "resolver.name" else logging.WARNING
            log.log(level, "LoRA %r is not resolved: %s: %s", lora_name[:200], error.code, error)
        except OSError as error:
            log.error("LoRA %r is not resolved: resolver.cache: %s", lora_name[:200], error)
        return None

    def _resolve(self, base_model_name: str, lora_name: str, deadline: Deadline) -> tuple[Path, int]:
        deadline.remaining()  # it may have waited for a thread
        name, base = Name.parse(lora_name), self._options.base
        if base_model_name.startswith("base/") and base_model_name != base.repository:
            text = f"The engine serves {base_model_name[:200]!r}, but {BASE_VARIABLE} says {base.repository}."
            raise RefusedError("resolver.base", text)
        while True:
            try:
                found = self._registry.find(base, name, deadline)
                directory = self._cache.take(found.files, partial(self._registry.chunks, found, deadline), deadline)
                break
            except BusyError as error:
                log.info("LoRA %r waits: %s: %s", lora_name, error.code, error)
                time.sleep(min(PAUSE_SECONDS, deadline.remaining()))
        check_config((directory / CONFIG).read_bytes(), base)
        log.info("LoRA %r is %s at commit %s, in %s", lora_name, found.repository, found.commit, directory)
        return directory, int(key_of(found.files)[:7], 16) + 1


def register() -> None:
    """The entry point (group vllm.general_plugins), called in every process of an engine: it only registers.

    Raises:
        ValueError: a variable that cannot be; the engine then does not start.
    """
    options = Options.read(os.environ)
    if options is None:
        log.debug("%s is not set: no adapters are asked of a registry", BASE_VARIABLE)
        return
    from vllm.lora.request import LoRARequest  # noqa: PLC0415  there only inside an engine
    from vllm.lora.resolver import LoRAResolver, LoRAResolverRegistry  # noqa: PLC0415

    resolver = AdapterResolver(options)

    class PortllmResolver(LoRAResolver):
        """vLLM's interface in front of an `AdapterResolver`."""

        async def resolve_lora(self, base_model_name: str, lora_name: str) -> Any:
            """A LoRARequest, or None."""
            resolved = await resolver.resolve(base_model_name, lora_name)
            if resolved is None:
                return None
            directory, number = resolved
            return LoRARequest(lora_name=lora_name, lora_int_id=number, lora_path=str(directory))

    LoRAResolverRegistry.register_resolver(RESOLVER_NAME, PortllmResolver())


def _registry(environment: Mapping[str, str]) -> tuple[str, str]:
    """Address and token of the registry. A token of the Hub goes to the Hub's endpoint only."""
    url, token = environment.get("PORTLLM_URL", "").strip(), environment.get("PORTLLM_TOKEN", "").strip()
    endpoint = environment.get("HF_ENDPOINT", "").strip()
    if not url:
        url, token = endpoint, token or environment.get("HF_TOKEN", "").strip()
    if not _is_address(url):
        raise ValueError("PORTLLM_URL, or else HF_ENDPOINT, must be an address that begins with http:// or https://.")
    if not token or not (token.isascii() and token.isprintable()):
        raise ValueError("PORTLLM_TOKEN must be a token of the registry.")
    return url, token


def _is_address(url: str) -> bool:
    try:
        parsed = urlsplit(url)
    except ValueError:
        return False
    return parsed.scheme in ("http", "https") and bool(parsed.hostname)


def _number(environment: Mapping[str, str], variable: str, default: float) -> float:
    text = environment.get(variable, "").strip()
    try:
        value = float(text) if text else default
    except ValueError:
        value = 0.0
    if not 0 < value < 10**18:
        raise ValueError(f"{variable} must be a number above zero.")
    return value
