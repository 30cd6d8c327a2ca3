"""Responses with one file of a merged model: computed here or on a worker, or passed through unchanged from release or patch."""

import base64
from collections.abc import Mapping
from contextlib import closing

from fastapi import Request, Response
from fastapi.responses import RedirectResponse

from app.domain.principal import Principal
from app.http.conditional import Span
from app.http.merged_response import Conditions, Reader, Target, respond
from app.services.artifacts.file_reads import Content
from app.services.ports.merged_files import MergedFile, MergedModel
from app.services.read_slots import ReadSlot
from app.services.registry import Registry

CACHING = {"Cache-Control": "private, no-transform"}


def respond_merged(
    request: Request, conditions: Conditions, registry: Registry, model: MergedModel, path: str,
    principal: Principal, slot: ReadSlot | None = None, worker_url: str | None = None, redirect: bool = False,
) -> Response:  # fmt: skip
    """Answers a GET or HEAD of one file of a merged model. Must be called outside of any transaction.

    Args:
        request, conditions: the request and its conditional headers.
        registry: computes the file.
        model: the merged model of a port that the caller may read.
        path: the path of the file.
        principal: the caller.
        slot: a slot that the request already waited for.
        worker_url: a signed URL of the file on a worker, if a worker computes merged files.
        redirect: whether the client is redirected there; otherwise the bytes pass through this process.

    Raises:
        OutputError: output.unknown_file.
        DomainError: request.range, server.busy, and errors of the storage.
    """
    file = model.file(path)

    def content(wanted: Span) -> Content | Response:
        if worker_url and file.computed and wanted.length:
            if redirect:
                return RedirectResponse(worker_url, 307, headers={"Cache-Control": "no-store"})
            if body := registry.handed_over.read(worker_url, conditions.passed_on(), wanted.length):
                return Content(lambda _: closing(body))
        return model.content(registry.tools, path, wanted.start, wanted.stop)

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
