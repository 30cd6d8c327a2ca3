"""What /openapi.json says beside the types of bodies: statuses of repeats, headers, and answers without a body."""

from typing import Any

from fastapi import FastAPI

from app.api.schemas.base import ProblemOut
from app.http.problems import MEDIA_TYPE

ETAG = {"ETag": "What changes ask for in If-Match, and reads in If-None-Match."}
CREATED = {
    "Location": "Where it is.",
    "Idempotent-Replayed": "true, where the answer was given before under the same Idempotency-Key.",
}
OFFSET = {"Upload-Offset": "How many bytes of the file have arrived."}
FILE = {**ETAG, "Accept-Ranges": "bytes", "Content-Range": "Of a part: which one, of how many bytes."}
RETRY = {"Retry-After": "Seconds, where it is worth trying again."}
LATER = {
    "4XX": {
        **RETRY,
        "RateLimit": "Of 429: which limit is used up (r=0), and the seconds t until requests are answered again.",
        "RateLimit-Policy": "Of 429: how many requests q there may be in w seconds.",
    },
    "5XX": RETRY,
}
# Headers of the answers that are no problems, by the end of the path of an operation.
HEADERS: dict[str, dict[str, str]] = {
    "GET /families/{family}/releases/{release}": ETAG,
    "GET /patches/{owner}/{patch}": ETAG,
    "PATCH /patches/{owner}/{patch}": ETAG,
    "PUT /patches/{owner}/{patch}/aliases/{alias}": ETAG,
    "GET /patches/{owner}/{patch}/versions/{number}": ETAG,
    "GET /ports/{port}": ETAG,
    "GET /materialisations/{materialisation}": ETAG,
    "GET /patches/{owner}/{patch}/versions/{number}/files/{path}": FILE,
    "HEAD /patches/{owner}/{patch}/versions/{number}/files/{path}": FILE,
    "GET /ports/{port}/files/{path}": FILE,
    "HEAD /ports/{port}/files/{path}": FILE,
    "HEAD /uploads/{upload}/files/{path}": {**OFFSET, "Upload-Length": "How many bytes of it were announced."},
    "PATCH /uploads/{upload}/files/{path}": OFFSET,
    "GET /owners/{owner}/usage": ETAG,
    "PUT /owners/{owner}/quota": ETAG,
    "POST /jobs/{job}/retry": {"Location": "The new job."},
    "POST /ports/{port}/digest": {"Location": "The job, where one was started."},
}


def install(app: FastAPI, prefix: str) -> None:
    """Lets an application complete the document that FastAPI makes."""
    make = app.openapi

    def completed() -> dict[str, Any]:
        if app.openapi_schema is None:
            complete(make(), prefix)
        return make()

    app.openapi = completed  # type: ignore[method-assign]


def complete(document: dict[str, Any], prefix: str) -> None:
    """Adds to a document in place what types do not say."""
    document["components"]["schemas"]["ProblemOut"] = ProblemOut.model_json_schema(mode="serialization")
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _complete(f"{method.upper()} {path.removeprefix(prefix)}", operation)
        if "head" in operations and "get" in operations:
            _as_get(operations["head"]["responses"], operations["get"]["responses"])


def _complete(name: str, operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    headers = HEADERS.get(name, {})
    if any(parameter["name"].lower() == "idempotency-key" for parameter in operation.get("parameters", ())):
        made = next(status for status in ("201", "202") if status in responses)
        responses.setdefault("200", {**responses[made], "description": "It was there already."})
        headers = {**headers, **CREATED}
    for status, response in responses.items():
        problem = status in ("4XX", "5XX")
        if problem and "content" in response:
            response["content"] = {MEDIA_TYPE: response["content"][MEDIA_TYPE]}
        own = LATER.get(status, {}) if problem else headers
        _say(response, {"X-Request-Id": "Names the request in the service's log.", **own})
        if name.startswith("HEAD "):
            response.pop("content", None)


def _as_get(head: dict[str, Any], get: dict[str, Any]) -> None:
    """HEAD answers with the statuses of GET, but from here: it sends nobody elsewhere."""
    for status in ("206", "304"):
        if status in get:
            head[status] = {key: value for key, value in get[status].items() if key != "content"}


def _say(response: dict[str, Any], headers: dict[str, str]) -> None:
    said = {name: {"description": text, "schema": {"type": "string"}} for name, text in headers.items()}
    response["headers"] = {**said, **response.get("headers", {})}
