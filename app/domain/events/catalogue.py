"""The catalogue of events: every kind that can be recorded. `docs/events.md` is generated from it."""

from app.domain.events import access, families, jobs, patches, ports
from app.domain.events.base import KINDS

# The reference lists the kinds in this order.
CATALOGUE = {
    name: kind
    for module in (families, patches, ports, jobs, access)
    for name, kind in KINDS.items()
    if kind.__module__ == module.__name__
}
