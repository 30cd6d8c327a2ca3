"""What is registered with the lower areas by the areas above them; a new kind of job is one entry here."""

from app.services.catalog.ingestion import INGESTION
from app.services.jobs.kinds import Kinds
from app.services.patches.imports import IMPORT
from app.services.ports.materialisations import MATERIALISATION
from app.services.ports.port_digests import PORT_DIGEST

JOB_KINDS: Kinds = {kind.name: kind for kind in (INGESTION, PORT_DIGEST, MATERIALISATION, IMPORT)}
