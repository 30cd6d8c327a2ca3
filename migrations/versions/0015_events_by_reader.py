"""Indexes for the events visible to one reader, for events about a subject, and for idempotency keys"""

from alembic import op

from migrations.indexes import create

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

INDICES = {
    "ix_events_family": ("events", ["id", "family"], "family IS NOT NULL"),
    "ix_events_kind_subject": ("events", ["kind", "subject"], None),
    "ix_idempotency_answers_location": ("idempotency_answers", ["location"], None),
    "ix_idempotency_answers_created_at": ("idempotency_answers", ["created_at"], None),
}


def upgrade() -> None:
    for name, (table, columns, where) in INDICES.items():
        create(name, table, columns, where)


def downgrade() -> None:
    for name, (table, _, _) in INDICES.items():
        op.drop_index(name, table)
