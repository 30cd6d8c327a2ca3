"""How routes of the Hub protocol answer: errors with the two headers from which its clients decide, never from the body."""

import json
import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response

from app.http.body_routes import BodyRoute
from app.http.problems import answered

CODE, MESSAGE = "X-Error-Code", "X-Error-Message"
REPOSITORY, REVISION, ENTRY = "RepoNotFound", "RevisionNotFound", "EntryNotFound"
# What clients call what is not there. A family that one may not see is a repository that is not there.
NOT_FOUND = {
    "hub.repository": REPOSITORY, "patch.unknown": REPOSITORY, "family.unknown": REPOSITORY,
    "hub.revision": REVISION, "release.unknown": REVISION, "release.not_ready": REVISION, "release.yanked": REVISION,
    "version.unknown": REVISION, "version.none": REVISION, "version.yanked": REVISION, "version.purged": REVISION,
    "alias.unknown": REVISION, "port.none": REVISION, "port.unknown": REVISION, "port.not_ready": REVISION,
    "hub.entry": ENTRY, "upload.unknown": ENTRY, "version.file": ENTRY, "output.unknown_file": ENTRY,
}  # fmt: skip
# Clients take a 401 with these very words for a bad token, and any other for a repository that is not there.
BAD_TOKEN = "Invalid credentials in Authorization header"  # noqa: S105
MESSAGE_LENGTH = 1000
# huggingface_hub takes 503 to a GET for the end since 1.0, and comes back five times at 429; before, it was the other way round.
_COMES_BACK_AT_429 = re.compile(r"\bhf_hub/[1-9]")
COME_BACK_SECONDS = "10"

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class HubRoute(BodyRoute):
    """A route whose refusals are said in the Hub's language too."""

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def told(request: Request) -> Response:
            try:
                return await handle(request)
            except Exception as error:
                refusal = answered(request, error)
                if refusal is None:
                    raise
                return in_hub_words(request, refusal)

        return told


def in_hub_words(request: Request, refusal: Response) -> Response:
    """Adds the headers, and `error` to the body, which clients print, to a refusal in the registry's own language."""
    body = json.loads(bytes(refusal.body))
    message = f"{body['detail']} {body['remedy']}"
    code = NOT_FOUND.get(body["code"])
    if refusal.status_code == 401:
        has_token = "authorization" in request.headers
        code, message = (None, BAD_TOKEN) if has_token else (REPOSITORY, message)
    headers = {name: value for name, value in refusal.headers.items() if name != "content-length"}
    headers[MESSAGE] = in_a_header(message)
    if code:
        headers[CODE] = code
    headers |= getattr(request.state, "said", {})  # what the route had found out before it refused
    # What is not there is 404 here, also where another surface calls it a conflict (a release that is not ready yet).
    status = 404 if code and refusal.status_code == 409 else refusal.status_code
    if status == 503 and request.method == "GET" and _COMES_BACK_AT_429.search(request.headers.get("user-agent", "")):
        status, headers["retry-after"] = 429, COME_BACK_SECONDS  # the name as it stands there already
    return Response(json.dumps({**body, "status": status, "error": message}), status, headers)


def in_a_header(text: str) -> str:
    """A text as a header can carry it: one line of visible ASCII."""
    plain = "".join(char if " " <= char <= "~" else "?" for char in text)
    return plain[:MESSAGE_LENGTH]
