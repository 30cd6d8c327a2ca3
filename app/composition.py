"""What is registered with the lower areas by the areas above them."""

from app.domain.events.families import ReleaseReady
from app.domain.events.patches import VersionPublished
from app.domain.events.ports import PortReady
from app.services.hubview import hub_commits
from app.services.unit_of_work import Handlers

# What happens in the same transaction as an event.
HANDLERS: Handlers = {
    ReleaseReady: (hub_commits.record_release,),
    VersionPublished: (hub_commits.record_version,),
    PortReady: (hub_commits.record_port,),
}
