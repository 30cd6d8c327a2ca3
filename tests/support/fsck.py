"""Runs fsck on a registry of this process, and alters rows behind its back."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from sqlalchemy import select, update

from app.services.artifacts.artifacts import Artifacts
from app.services.operations.fsck import check
from app.services.operations.fsck.troubles import Report
from tests.support.registry import Service


def fsck_report(service: Service, quick: bool = True) -> Report:
    """What a check finds that opened the registry anew, as the command line does."""
    tools, report = service.runtime.tools, Report()
    opened = SimpleNamespace(tools=dataclasses.replace(tools, artifacts=Artifacts(tools.blobs)), read=service.runtime.read)
    for found in check.check(opened, quick, lambda _what, _done, _total: None):
        report.add(found)
    assert all(trouble.remedy for trouble in report.troubles)
    return report


def troubles_by_code(service: Service, quick: bool = True) -> dict[str, list[str]]:
    """Subjects of troubles by code."""
    by_code: dict[str, list[str]] = {}
    for trouble in fsck_report(service, quick).troubles:
        assert trouble.detail.endswith(".")
        by_code.setdefault(trouble.code, []).append(trouble.subject)
    return by_code


@contextmanager
def altered_row(service: Service, model: Any, ident: str, **values: Any) -> Iterator[None]:
    """A row with other values for a while, written behind the registry's back."""
    columns = [model.__table__.c[name] for name in values]
    with service.connection() as connection:
        before = connection.execute(select(*columns).where(model.id == ident)).one()
        connection.execute(update(model).where(model.id == ident).values(**values))
    try:
        yield
    finally:
        with service.connection() as connection:
            connection.execute(update(model).where(model.id == ident).values(**before._asdict()))
