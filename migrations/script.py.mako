"""${message}

A migration runs before the previous version of the code stops: add first, fill, remove in a later release. New columns may be
null or have a server_default; constraints belong to new tables, or are fulfilled by all that the previous version writes (the rules: app/db/schema.py).
"""

import sqlalchemy as sa

from alembic import op
import app.db.base
${imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
