"""100,000 patches, as the services would have written them: each with a published version, an alias, a port and its events.

A few are made through the API first. The others copy their rows under names, ids and times of their own, so that they name
bytes that are really there: any of them can be checked, ported and read, and `portllm fsck` finds nothing missing.
"""

import datetime as dt
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.types.json import Json
from sqlalchemy import JSON, Connection, Table, create_engine, select, text
from sqlalchemy.orm import Session, joinedload

from app.db.aliases import Alias
from app.db.events import Event
from app.db.patches import Patch, PatchVersion
from app.db.ports import Port

TEAMS = 200
ALIAS = "prod"
DESCRIPTION = "How this team's assistant answers its customers"
CHUNK = 5_000
MODELS = (Patch, PatchVersion, Alias, Port)  # in the order of their foreign keys
# What a row of ours takes over from the row that it is made after.
OF_VERSION = ("state", "number", "digest", "published_digest", "files", "dropped", "total_bytes", "trained_on_id", "facts")
OF_PORT = ("release_id", "state", "recipe", "forced", "findings", "fidelity", "digest_attempt")


@dataclass(frozen=True, slots=True)
class Filled:
    """A patch that was filled in, its port, and the release of that."""

    owner: str
    name: str
    port: str
    release: str

    @property
    def full(self) -> str:
        return f"{self.owner}/{self.name}"


def fill(url: str, count: int) -> list[Filled]:
    """Adds patches until there are `count`, after the pattern of the ports that are there; the oldest first."""
    engine = create_engine(url)
    with Session(engine) as session:
        chain = joinedload(Port.version).joinedload(PatchVersion.patch)
        patterns = session.scalars(select(Port).options(chain, joinedload(Port.release))).all()
        missing = count - len(session.scalars(select(Patch.id)).all())
    made: list[Filled] = []
    with engine.begin() as connection:
        for start in range(0, missing, CHUNK):
            rows = [_rows(number, missing, patterns) for number in range(start, min(missing, start + CHUNK))]
            for model, of_model in zip(MODELS, zip(*rows, strict=True), strict=True):
                _copy(connection, model.__table__, of_model)
            _copy(connection, Event.__table__, [event for patch, _, _, port in rows for event in _events(patch, port)])
            releases = {pattern.release_id: pattern.release.name for pattern in patterns}
            made += [Filled(p["owner"], p["name"], port["id"], releases[port["release_id"]]) for p, _, _, port in rows]
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))  # as in a database that has been there for a while
    engine.dispose()
    return made


Values = dict[str, Any]


def _rows(number: int, count: int, patterns: Sequence[Port]) -> tuple[Values, Values, Values, Values]:
    """Patch, version, alias and port, made within the last month, each a moment after the one before."""
    pattern = patterns[number % len(patterns)]
    version = pattern.version
    at = dt.datetime.now(dt.UTC) - dt.timedelta(days=30) + dt.timedelta(days=29) * (number / count)
    owner = f"team-{number % TEAMS:03}"
    patch = _new(
        "pat", at, owner=owner, name=f"patch-{number:06}", family_id=version.patch.family_id, description=DESCRIPTION
    )  # fmt: skip
    published = _new(
        "ver", at, owner=owner, patch_id=patch["id"], published_at=at, **{n: getattr(version, n) for n in OF_VERSION}
    )
    alias = _new("als", at, owner=owner, patch_id=patch["id"], name=ALIAS, version_id=published["id"])
    # The merged bytes are the same, so their name is too.
    port = _new(
        "prt", at, owner=owner, version_id=published["id"], ready_at=at, fingerprint=pattern.fingerprint,
        **{name: getattr(pattern, name) for name in OF_PORT},
    )  # fmt: skip
    return patch, published, alias, port


def _new(prefix: str, at: dt.datetime, **values: Any) -> Values:
    """A row's own values; its id as `app.domain.ids.new_id` would have made it then."""
    ident = f"{prefix}_{int(at.timestamp() * 1000):012x}{secrets.token_hex(10)}"
    return {"id": ident, "created_at": at, "row_version": 1, **values}


def _events(patch: Values, port: Values) -> list[Values]:
    """What the services say when they write such rows."""
    full, owner = f"{patch['owner']}/{patch['name']}", patch["owner"]
    subjects = {
        "patch.created": full, "version.published": f"{full}@1", "alias.moved": f"{full}@{ALIAS}", "port.ready": port["id"],
    }  # fmt: skip
    return [
        {"at": patch["created_at"], "kind": kind, "owner": owner, "subject": subject, "actor": owner, "data": {"version": 1}}
        for kind, subject in subjects.items()
    ]


def _copy(connection: Connection, table: Any, rows: Sequence[Values]) -> None:
    """Into a table by COPY; columns that the rows do not name are left to the database."""
    assert isinstance(table, Table)
    names = list(rows[0])
    as_json = [isinstance(table.c[name].type, JSON) for name in names]
    driver = connection.connection.driver_connection
    assert driver is not None
    with driver.cursor().copy(f"COPY {table.name} ({', '.join(names)}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row([Json(row[n]) if is_json else row[n] for n, is_json in zip(names, as_json, strict=True)])
