"""What an engine, or a plug-in of one, needs to serve a port: what it may serve, where it lies, and how the engine is started."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.core.adapter import CONFIG_FILE, WEIGHTS_FILE
from app.core.findings import Finding
from app.core.recipe import DTYPES, Recipe
from app.core.safetensors_header import Header
from app.core.serving import Facts, Option, decide
from app.core.tokenizers import TOKENIZER_FILES
from app.db import ports as rows
from app.db.ports import Port
from app.domain.errors import DomainError
from app.domain.principal import Principal
from app.services.access import grants
from app.services.artifacts.artifacts import digests_of
from app.services.hubview import hub_commits, snapshots
from app.services.hubview.repositories import Adapter, BaseModel, Merged, Thing
from app.services.hubview.snapshots import Snapshot
from app.services.patches import patches
from app.services.ports import ports
from app.services.tools import OpenArtifacts
from app.services.unit_of_work import UnitOfWork, UnitsOfWork

# What an engine reads of an adapter, in the order of reading.
ADAPTER_FILES = (CONFIG_FILE, WEIGHTS_FILE)
TORCH_DTYPES = {stored: name for name, stored in DTYPES.items()}


@dataclass(frozen=True)
class Addresses:
    """Repositories of the Hub protocol; None for what this port's recipe has no name for."""

    base: Snapshot
    adapter: Snapshot | None
    merged: Snapshot | None


@dataclass(frozen=True)
class Serving:
    """A port as engines see it.

    Attributes:
        facts: what was decided by.
        addresses: None where the port is not ready.
        architectures: of the base's config.json.
    """

    port: Port
    facts: Facts
    options: tuple[Option, ...]
    addresses: Addresses | None
    architectures: tuple[str, ...]


@dataclass(frozen=True)
class ServedPort:
    """A port and the subjects that Hub clients see: base, adapter, merged model, each with its recorded snapshot, if any."""

    port: Port
    shown: tuple[tuple[Thing, Snapshot | None], ...]


def find(uow: UnitOfWork, principal: Principal, port_id: str) -> ServedPort:
    """Reads the rows that `describe` needs.

    Raises:
        DomainError: port.unknown; family.unknown, if the principal may not see its base model (any more); version.purged.
    """
    port = ports.get(uow, principal, port_id)
    if not grants.is_visible(uow, principal, port.release.family_id):
        raise DomainError("family.unknown", family=port.release.family.name)
    patches.require_kept(port.version)
    if port.state != "ready":
        return ServedPort(port, ())
    shown = rows.between(uow.session, port.version_id, port.release_id) or port  # the port that the Hub names refer to
    things = (BaseModel(port.release), Adapter(port.version, shown), Merged(shown))
    return ServedPort(port, tuple((thing, snapshots.written(uow, thing)) for thing in things))


def describe(units: UnitsOfWork, found: ServedPort) -> Serving:
    """Returns which engines can serve a port, and how. Reads files, so no transaction should be open.

    Raises:
        CoreError: the stored bytes differ from those that were published.
    """
    port, artifacts = found.port, units.tools.artifacts
    if port.state != "ready":
        facts = Facts(port.state, Recipe.from_dict(port.recipe), {}, frozenset(), frozenset(), (), "", ())
        return Serving(port, facts, decide(facts), None, ())
    config = artifacts.manifest(port.release).checkpoint.config
    facts = _facts(artifacts, port, config)
    architectures = config.get("architectures")
    named = tuple(str(one)[:100] for one in architectures[:10]) if isinstance(architectures, list) else ()
    return Serving(port, facts, decide(facts), _addresses(units, found, facts.is_canonical), named)


def _facts(artifacts: OpenArtifacts, port: Port, base: Mapping[str, Any]) -> Facts:
    recipe, version = Recipe.from_dict(port.recipe), port.version
    plan = artifacts.plan(port.release, version, recipe)
    touched = {compute.dtype for compute in plan.computed_tensors()}
    with artifacts.open_patch(version) as opened:
        adapter, header = opened.patch.adapter, opened.patch.header
    low = next((Finding(**found) for found in port.findings if found["code"] == "fidelity.low"), None)
    release, brought = artifacts.manifest(port.release).file_digests, digests_of(version)
    return Facts(
        state=port.state, recipe=recipe, config=artifacts.adapter_config(version),
        ranks=adapter.ranks,
        modules=frozenset(module.rpartition(".")[2] for module in adapter.modules), factor_dtypes=_dtypes(header),
        model_type=str(base.get("model_type"))[:60], output_dtypes=tuple(sorted(touched)),
        own_tokenizer=tuple(sorted(p for p in brought if p in TOKENIZER_FILES and release.get(p) != brought[p])),
        yanked=_yanked(port), low_fidelity=low,
    )  # fmt: skip


def _dtypes(header: Header) -> tuple[str, ...]:
    return tuple(sorted({tensor.dtype for tensor in header.tensors}))


def _yanked(port: Port) -> tuple[str, ...]:
    states = {"version": port.version.state, "release": port.release.state}
    return tuple(what for what, state in states.items() if state == "yanked")


def _addresses(units: UnitsOfWork, found: ServedPort, is_canonical: bool) -> Addresses:
    """Returns where base, adapter and merged model are, as Hub clients see them; ports by other recipes have a base only."""
    shown = found.shown if is_canonical else found.shown[:1]
    snapshots_of = [snapshot or hub_commits.write_missing(units, thing) for thing, snapshot in shown]
    base, adapter, merged = (*snapshots_of, None, None)[:3]
    assert base is not None  # noqa: S101  every ready port has a base
    return Addresses(base, adapter, merged)
