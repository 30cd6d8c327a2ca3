"""Queues without a worker: jobs wait, and no live worker takes them. Reported once as an event, and shown while it lasts."""

import datetime as dt
import logging
from typing import Any

from app.db import installation, job_queues
from app.db.base import clock
from app.domain.events.jobs import WorkerMissing, WorkerResolved
from app.domain.principal import INSTALLATION, Principal
from app.services.unit_of_work import Begin, UnitOfWork

FACT = "unserved-queues"

log = logging.getLogger("portllm.jobs")


def counts(uow: UnitOfWork) -> dict[str, int]:
    """Returns how many jobs wait for classes without a live worker, by class."""
    served = uow.tools.jobs.served(uow.session)
    return {name: count for name, count in job_queues.waiting_by_class(uow.session).items() if name not in served}


def watch(read: Begin, write: Begin, patience: float) -> None:
    """Compares waiting jobs with live workers; records the beginning and the end of an incident with one event each.

    Args:
        read: opens a read-only unit of work.
        write: opens a unit of work that writes.
        patience: seconds that a class may be without a worker before it is reported, so that a restart is not an incident.
    """
    with read() as uow:
        known, waiting = _known(uow), counts(uow)
        if not waiting and not known:
            return
        following = _follow(known, waiting, clock(uow.session), patience)
    if following == known:
        return
    with write() as uow:
        actor = Principal(INSTALLATION, frozenset({"admin"}), "maintenance")
        for name in sorted(known.keys() | following.keys()):
            before, after = bool(known.get(name, {}).get("told")), bool(following.get(name, {}).get("told"))
            if after and not before:
                log.warning("%d jobs wait, and no live worker takes jobs of class %s", waiting[name], name)
                event = WorkerMissing(jobs=waiting[name], since=following[name]["since"])
                uow.event(event, actor, INSTALLATION, name)
            if before and not after:
                log.warning("jobs of class %s no longer wait for want of a worker", name)
                uow.event(WorkerResolved(since=known[name]["since"]), actor, INSTALLATION, name)
        installation.write(uow.session, FACT, following)


def check(read: Begin) -> str | None:
    """Returns a note for readiness about classes without a live worker. It never fails: stored data can still be read."""
    with read() as uow:
        told = {name: found["since"] for name, found in sorted(_known(uow).items()) if found["told"]}
    return "; ".join(f"no live worker takes jobs of class {name}, since {since}" for name, since in told.items()) or None


def _follow(known: dict[str, Any], waiting: dict[str, int], moment: dt.datetime, patience: float) -> dict[str, Any]:
    """Returns the current incidents by class: when each began, and whether it was reported."""
    following = {}
    for name in waiting:
        found = known.get(name) or {"since": moment.isoformat(timespec="seconds"), "told": False}
        lasts = (moment - dt.datetime.fromisoformat(found["since"])).total_seconds()
        following[name] = found | {"told": found["told"] or lasts >= patience}
    return following


def _known(uow: UnitOfWork) -> dict[str, Any]:
    return installation.read(uow.session, FACT) or {}
