"""Our own indexes on the job engine's tables, which make lists of jobs fast.

They are created right after the engine's tables, and not by our migrations, which run before those tables exist. The engine does
not know these indexes: if one of its versions rebuilds a table they are lost, which only makes queries slower, and the next
upgrade creates them again.
"""

from sqlalchemy import Engine, inspect, text

# The owner is the first part of a job's id.
OWNER = {"sqlite": "substr(workflow_uuid, 1, instr(workflow_uuid, ':') - 1)", "postgresql": "split_part(workflow_uuid, ':', 1)"}
# To the engine, a refused job ended successfully; only its outcome, which begins with this text, shows the refusal.
REFUSED = "substr(output, 1, 8) = '{\"error\"'"


def create(engine: Engine) -> None:
    """Creates the missing indexes; on PostgreSQL concurrently, without blocking writers."""
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
            if schema:  # an interrupted build leaves an invalid index behind
                broken = text("SELECT 1 FROM pg_index WHERE indexrelid = to_regclass(:name) AND NOT indisvalid")
                if connection.scalar(broken, {"name": f"{schema}.{name}"}):
                    connection.exec_driver_sql(f"DROP INDEX CONCURRENTLY IF EXISTS {schema}.{name}")
            connection.exec_driver_sql(f"CREATE INDEX {how} IF NOT EXISTS {name} ON {definition}")
