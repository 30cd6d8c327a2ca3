"""Who may call what, on one page: every route below /api/v1 has a rule here; an application with one without is not built.

The services ask the principal again for the very thing that is read or changed; this table says what to expect of them,
and the tests hold both to it.
"""

from app.http.access_rules import ADMIN, OPEN, OWN, PUBLISH, READ, Rule

RULES: dict[str, Rule] = {
    "GET /whoami": OWN,
    "GET /events": OWN,
    "GET /jobs": OWN,
    "GET /patches": OWN,
    "GET /ports": OWN,
    "GET /families": OWN,
    "GET /releases": OWN,
    # -- families and releases
    "POST /families": ADMIN,
    "GET /families/{family}": Rule("read", "family"),
    "GET /families/{family}/grants": ADMIN,
    "PUT /families/{family}/grants/{reader}": ADMIN,
    "DELETE /families/{family}/grants/{reader}": ADMIN,
    "GET /families/{family}/aliases": Rule("read", "family"),
    "POST /families/{family}/aliases": ADMIN,
    "DELETE /families/{family}/aliases/{alias}": ADMIN,
    "GET /families/{family}/releases": Rule("read", "family"),
    "GET /families/{family}/releases/{release}": Rule("read", "family"),
    "POST /families/{family}/releases": ADMIN,
    "POST /families/{family}/releases/{release}/yank": ADMIN,
    # -- patches and their versions
    "POST /patches": Rule("publish", "anybody"),
    "GET /patches/{owner}/{patch}": READ,
    "PATCH /patches/{owner}/{patch}": PUBLISH,
    "PUT /patches/{owner}/{patch}/aliases/{alias}": PUBLISH,
    "POST /patches/{owner}/{patch}/publish": PUBLISH,
    "GET /patches/{owner}/{patch}/versions": READ,
    "POST /patches/{owner}/{patch}/versions": PUBLISH,
    "GET /patches/{owner}/{patch}/versions/{number}": READ,
    "POST /patches/{owner}/{patch}/versions/{number}/yank": PUBLISH,
    "POST /patches/{owner}/{patch}/versions/{number}/purge": Rule("operate", "owner"),
    "GET /patches/{owner}/{patch}/versions/{number}/erasure": READ,
    "GET /patches/{owner}/{patch}/versions/{number}/files/{path:path}": READ,
    "HEAD /patches/{owner}/{patch}/versions/{number}/files/{path:path}": READ,
    "GET /uploads/{upload}": PUBLISH,
    "POST /uploads/{upload}/direct": PUBLISH,
    "HEAD /uploads/{upload}/files/{path:path}": PUBLISH,
    "PATCH /uploads/{upload}/files/{path:path}": PUBLISH,
    "POST /uploads/{upload}/publish": PUBLISH,
    # -- ports and merged models
    "POST /ports/check": Rule("read", "anybody"),
    "POST /ports": Rule("publish", "anybody"),
    "GET /ports/{port}": READ,
    "GET /ports/{port}/serving.json": READ,
    "POST /ports/{port}/approve": PUBLISH,
    "POST /ports/{port}/retire": PUBLISH,
    "POST /ports/{port}/digest": READ,
    "GET /ports/{port}/files": READ,
    "GET /ports/{port}/files/{path:path}": READ,
    "HEAD /ports/{port}/files/{path:path}": READ,
    "POST /ports/{port}/materialise": PUBLISH,
    "GET /ports/{port}/materialisations": READ,
    "GET /materialisations/{materialisation}": READ,
    # -- jobs, workers
    "GET /jobs/{job}": READ,
    "POST /jobs/{job}/cancel": PUBLISH,
    "POST /jobs/{job}/retry": PUBLISH,
    "GET /workers": ADMIN,
    # -- tokens, the audit trail
    "POST /tokens": Rule("operate", "anybody"),
    "GET /tokens": Rule("operate", "anybody"),
    "DELETE /tokens/{token}": Rule("operate", "holder"),
    "POST /tokens/{token}/rotate": Rule("operate", "holder"),
    "GET /audit": Rule("operate", "anybody"),
    # -- hubs that are pulled from
    "GET /upstreams": ADMIN,
    "GET /upstreams/{upstream}": ADMIN,
    "PUT /upstreams/{upstream}": ADMIN,
    "DELETE /upstreams/{upstream}": ADMIN,
    "POST /imports": Rule("publish", "anybody"),
    "GET /imports": OWN,
    "GET /imports/{ident}": READ,
    # -- quotas
    "GET /owners/{owner}/usage": READ,
    "PUT /owners/{owner}/quota": Rule("admin", "owner"),
    # -- how to come by a token
    "GET /oidc": OPEN,
    "POST /tokens/exchange": OPEN,
}
