"""The version before, as far as a database sees it: rows and statements by the schema that it ran on, and nothing newer.

Its tables are reflected from a database that only its own migrations made, so its statements name its columns alone.
"""

import hashlib
import secrets
import threading
from contextlib import contextmanager
from typing import Any

from alembic import command
from sqlalchemy import Column, Connection, MetaData, NullPool, Table, create_engine, select

from app.db.base import Base, now
from app.db.engine import make_engine
from app.db.schema import alembic_config
from app.domain.ids import new_id

# What the last release before this one ran on; to be moved on with every release.
REVISION = "0001"
APPENDED = "events"  # numbered by the database


def migrate(url: str) -> None:
    """Brings an empty database to where the version before had it."""
    command.upgrade(alembic_config(url), REVISION)


class OldVersion:
    """Statements of the version before.

    Args:
        url: of a database that is at its revision now; it may be upgraded later.
    """

    def __init__(self, url: str) -> None:
        reflected, engine = MetaData(), create_engine(url, poolclass=NullPool)
        reflected.reflect(engine, only=lambda name, _: name in Base.metadata.tables)
        self.tables: list[Table] = reflected.sorted_tables
        self.engine = make_engine(url)
        self.errors: list[BaseException] = []
        self.marks: list[str] = []

    def everything(self, connection: Connection, mark: str, secret: str = "") -> dict[str, dict[str, Any]]:
        """Inserts a row into each table, reads each by all its columns, writes all its columns again; the rows."""
        made = rows(mark, secret or f"plt_{mark}")
        for table in self.tables:
            row = made[table.name]
            assert set(row) == {column.name for column in table.c} - ({"id"} if table.name == APPENDED else set()), table.name
            connection.execute(table.insert().values(row))
        for table in self.tables:
            key = _key(table)
            ours = key == made[table.name][key.name]
            found = connection.execute(select(*table.c).where(ours)).one()._mapping
            assert {name: found[name] for name in ("owner", "state") if name in table.c} == {
                name: made[table.name][name] for name in ("owner", "state") if name in table.c
            }
            if table.name == APPENDED:  # nothing ever changed an event, and since 0006 nothing can
                continue
            assert connection.execute(table.update().where(ours).values(made[table.name])).rowcount == 1
        return made

    def table(self, name: str) -> Table:
        return next(table for table in self.tables if table.name == name)

    @contextmanager
    def working(self, threads: int = 2) -> Any:
        """It works on the database as long as the block lasts, each thread in one transaction after another."""
        stopping = threading.Event()

        def work() -> None:
            try:
                while not stopping.is_set():
                    mark = secrets.token_hex(6)
                    with self.engine.begin() as connection:
                        self.everything(connection, mark)
                    self.marks.append(mark)
            except BaseException as error:  # noqa: BLE001  whatever it is, the test must see it
                self.errors.append(error)

        workers = [threading.Thread(target=work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        try:
            yield
        finally:
            stopping.set()
            for worker in workers:
                worker.join(60)


def rows(mark: str, secret: str) -> dict[str, dict[str, Any]]:
    """A row for each table of the revision, which belong together: acme/tone-{mark} of family fam-{mark}, held on release v1."""
    at, ids = now(), {noun: new_id(noun) for noun in ("fam", "rel", "pat", "ver", "ali", "prt", "tok", "ans", "lin")}

    def row(noun: str, **values: Any) -> dict[str, Any]:
        return {"id": ids[noun], "created_at": at, **values}

    digest = hashlib.sha256(mark.encode()).hexdigest()
    return {
        "events": {
            "at": at, "kind": "family.created", "owner": "registry", "subject": mark, "actor": "admin", "data": {"name": mark},
        },
        "families": row("fam", name=f"fam-{mark}", owner="registry", description="old", row_version=1),
        "releases": row(
            "rel", family_id=ids["fam"], name="v1", owner="registry", parent_id=None, state="ready", source="/models/v1",
            copied=False, attempt=1, stats={}, manifest=digest, total_bytes=2**40, summary=None, problem=None, yank_reason=None,
            ready_at=at, row_version=1,
        ),
        "patches": row("pat", owner="acme", name=f"tone-{mark}", family_id=ids["fam"], description="old", row_version=1),
        "patch_versions": row(
            "ver", patch_id=ids["pat"], owner="acme", number=1, state="published", digest=digest, published_digest=digest,
            files=[{"path": "adapter_config.json", "size": 2, "sha256": digest}], dropped=[], total_bytes=2,
            trained_on_id=ids["rel"], facts={"rank": 8}, yank_reason=None, published_at=at, row_version=1,
        ),
        "aliases": row("ali", patch_id=ids["pat"], owner="acme", name="prod", version_id=ids["ver"], row_version=1),
        "ports": row(
            "prt", version_id=ids["ver"], release_id=ids["rel"], owner="acme", state="held", recipe={}, fingerprint=digest,
            forced=False, reason=None, findings=[], fidelity=None, digests=None, digest_attempt=0, ready_at=None, row_version=1,
        ),
        "tokens": row(
            "tok", owner="admin", name="old", scopes=["admin", "read", "publish"], revoked_at=None,
            hash=hashlib.sha256(secret.encode()).hexdigest(),
        ),
        "idempotency_answers": row(
            "ans", token=ids["tok"], owner="acme", key=mark, request=digest, status=201, body={}, location="/",
        ),
        "lineage_samples": row("lin", old_manifest=digest, new_manifest=digest[::-1], lineage={}),
    }  # fmt: skip


def _key(table: Table) -> Column[Any]:
    """What finds a row again."""
    return table.c.subject if table.name == APPENDED else table.c.id
