"""The pages for people, /docs and /redoc: the only HTML that the API makes.

Both load their scripts from a public network, as FastAPI's pages do; a browser lets them talk to this registry and to nobody
else, so that a token which somebody types into the page stays here.
"""

from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import HTMLResponse

CDN = "https://cdn.jsdelivr.net"
PAGE = {
    "Content-Security-Policy": (
        f"default-src 'none'; script-src {CDN} 'unsafe-inline'; style-src {CDN} 'unsafe-inline'; worker-src blob:; "
        f"img-src {CDN} https://fastapi.tiangolo.com data:; font-src {CDN} data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
}


def install(app: FastAPI) -> None:
    """Adds the pages. FastAPI's own are to be off: they say nothing to browsers."""

    async def docs() -> HTMLResponse:
        page = get_swagger_ui_html(openapi_url=str(app.openapi_url), title=f"{app.title}: API")
        page.headers.update(PAGE)
        return page

    async def redoc() -> HTMLResponse:
        page = get_redoc_html(openapi_url=str(app.openapi_url), title=f"{app.title}: API", with_google_fonts=False)
        page.headers.update(PAGE)
        return page

    app.add_api_route("/docs", docs, include_in_schema=False)
    app.add_api_route("/redoc", redoc, include_in_schema=False)
