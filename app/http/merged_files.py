"""Responses with one file of a merged model: computed here or on a worker, or passed through unchanged from release or patch."""

import base64
from collections.abc import Mapping
from contextlib import closing
from typing import Literal

from fastapi import Request, Response
from fastapi.responses import RedirectResponse

from app.db.ports import Port
from app.domain.principal import Principal
from app.http.conditional import Span
from app.http.merged_response import Conditions, Reader, Target, respond
from app.services.artifacts.file_reads import Content
from app.services.jobs import workers
from app.services.ports.merged_files import MergedFile, MergedModel
from app.services.read_slots import ReadSlot
from app.services.registry import Registry

# How a worker serves a read: by redirect, or through this process.
Delegate = Literal["redirect", "pass_through"]
CACHING = {"Cache-Control": "private, no-transform"}


def respond_merged(
    request: Request, conditions: Conditions, registry: Registry, port: Port, path: str, principal: Principal,
    slot: ReadSlot | None = None, delegate: Delegate | None = None,
) -> Response:  # fmt: skip
    """Answers a GET or HEAD of one file of a merged model. Must be called outside of any transaction.

    Args:
        request, conditions: the request and its conditional headers.
        registry: computes the file.
        port: a port that the caller may read, with its version and release.
        path: the path of the file.
        principal: the caller.
        slot: a slot that the request already waited for.
        delegate: gets computed bytes from a worker, if one is live; None: they are computed here.

    Raises:
        CoreError: release and version do not fit each other, or their bytes have changed; output.unknown_file.
        DomainError: request.range, server.busy, and errors of the storage.
    """
    tools, model = registry.tools, MergedModel(registry.tools.artifacts, port)
    file = model.file(path)

    def content(wanted: Span) -> Content | Response:
        worker = workers.choose(registry.readers(), port.fingerprint) if delegate and file.computed and wanted.length else None
        if worker:
            url = workers.signed_url(tools.secret_keys[0], worker, port.id, path, principal.token)
            if delegate == "redirect":
                return RedirectResponse(url, 307, headers={"Cache-Control": "no-store"})
            if body := registry.handed_over.read(url, conditions.passed_on(), wanted.length):
                return Content(lambda _: closing(body))
        return model.content(tools, path, wanted.start, wanted.stop)

    return respond(
        request,
        conditions,
        Target(path, file.size, file.etag, _headers(file)),
        content,
        Reader(principal, model.family_id),
        slot,
    )


def _headers(file: MergedFile) -> Mapping[str, str]:
    if not file.sha256:
        return CACHING
    return CACHING | {"Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(file.sha256)).decode()}:"}
