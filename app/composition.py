"""What upper areas register with lower ones: kinds of jobs and handlers of events. A new kind of job is one entry here."""

from app.domain.events.families import ReleaseReady
from app.domain.events.patches import VersionPublished
from app.domain.events.ports import PortReady
from app.services.catalog.ingestion import INGESTION
from app.services.hubview import hub_commits
from app.services.jobs.kinds import Kinds
from app.services.patches.imports import IMPORT
from app.services.ports.materialisations import MATERIALISATION
from app.services.ports.port_digests import PORT_DIGEST
from app.services.unit_of_work import Handlers

JOB_KINDS: Kinds = {kind.name: kind for kind in (INGESTION, PORT_DIGEST, MATERIALISATION, IMPORT)}

# Handlers that run in the transaction of an event.
HANDLERS: Handlers = {
    ReleaseReady: (hub_commits.record_release,),
    VersionPublished: (hub_commits.record_version,),
    PortReady: (hub_commits.record_port,),
}
