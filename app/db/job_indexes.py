"""Indexes of ours over the job engine's tables, for lists of jobs.

Whoever creates the engine's tables creates these after them: they are no part of our migrations, which run first. The engine does
not know them: where a version of it builds a table anew they are gone, which costs time, and are created with the next upgrade.
"""

from sqlalchemy import Engine, inspect, text

# The owner is the first part of a job's id.
OWNER = {"sqlite": "substr(workflow_uuid, 1, instr(workflow_uuid, ':') - 1)", "postgresql": "split_part(workflow_uuid, ':', 1)"}
# A job that was refused has ended well for the engine; its outcome, which begins like this, tells.
REFUSED = "substr(output, 1, 8) = '{\"error\"'"


def create(engine: Engine) -> None:
    """Creates the indexes that are missing; on PostgreSQL beside whoever writes."""
    dialect = engine.dialect.name
    schema, how = (None, "") if dialect == "sqlite" else ("dbos", "CONCURRENTLY")
    place = f"{schema}." if schema else ""
    wanted = {
        "ix_portllm_jobs_owner": f"{place}workflow_status (({OWNER[dialect]}), created_at, workflow_uuid)",
        "ix_portllm_jobs_refused": f"{place}workflow_output (workflow_uuid) WHERE {REFUSED}",
    }
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if not inspect(connection).has_table("workflow_status", schema=schema):
            return
        for name, definition in wanted.items():
            if schema:  # one that broke off is there and not valid
                broken = text("SELECT 1 FROM pg_index WHERE indexrelid = to_regclass(:name) AND NOT indisvalid")
                if connection.scalar(broken, {"name": f"{schema}.{name}"}):
                    connection.exec_driver_sql(f"DROP INDEX CONCURRENTLY IF EXISTS {schema}.{name}")
            connection.exec_driver_sql(f"CREATE INDEX {how} IF NOT EXISTS {name} ON {definition}")
