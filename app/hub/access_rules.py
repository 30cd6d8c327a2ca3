"""Who may call what of the Hub protocol: every route at the root has a rule here, as those of the API have theirs."""

from app.http.access_rules import OWN, PUBLISH, READ, SIGNED, Rule

RULES: dict[str, Rule] = {
    "GET /api/whoami-v2": OWN,
    # -- repositories; of a family's the services ask whether it is granted
    "GET /api/models": OWN,
    "GET /api/models/{owner}/{name}": READ,
    "GET /api/models/{owner}/{name}/revision/{revision}": READ,
    "GET /api/models/{owner}/{name}/auth-check": READ,
    "GET /api/models/{owner}/{name}/auth-check/read": READ,
    "GET /api/models/{owner}/{name}/refs": READ,
    "GET /api/models/{owner}/{name}/commits/{revision}": READ,
    # -- files
    "GET /api/models/{owner}/{name}/tree/{revision}": READ,
    "GET /api/models/{owner}/{name}/tree/{revision}/{path:path}": READ,
    "POST /api/models/{owner}/{name}/paths-info/{revision}": READ,
    "GET /{owner}/{name}/resolve/{revision}/{path:path}": READ,
    "HEAD /{owner}/{name}/resolve/{revision}/{path:path}": READ,
    # -- pushes; to a family's repository only an admin
    "POST /api/repos/create": Rule("publish", "anybody"),
    "DELETE /api/repos/delete": Rule("publish", "anybody"),
    "POST /api/validate-yaml": OWN,
    "POST /api/models/{owner}/{name}/tag/{revision:path}": PUBLISH,
    "DELETE /api/models/{owner}/{name}/tag/{tag:path}": PUBLISH,
    "POST /api/models/{owner}/{name}/branch/{branch:path}": PUBLISH,
    "POST /api/models/{owner}/{name}/preupload/{revision:path}": PUBLISH,
    "POST /api/models/{owner}/{name}/commit/{revision:path}": PUBLISH,
    "POST /{owner}/{name}.git/info/lfs/objects/batch": PUBLISH,
    "POST /api/objects/{owner}/{name}/verify": PUBLISH,
    "GET /api/models/{owner}/{name}/xet-write-token/{revision:path}": PUBLISH,
    # -- what is sent by leave that we signed, without a token of ours
    "PUT /api/objects/{ident}": SIGNED,
    "POST /api/objects/{ident}/complete": SIGNED,
    "POST /cas/{session}/v1/xorbs/{prefix}/{block}": SIGNED,
    "POST /cas/{session}/v1/shards": SIGNED,
    "GET /cas/{session}/{rest:path}": SIGNED,
    "POST /cas/{session}/{rest:path}": SIGNED,
    # -- what clients may ask for and is never here
    "GET /api/models/{name}": READ,
    "GET /api/datasets/{rest:path}": READ,
    "GET /api/spaces/{rest:path}": READ,
    "GET /{name}/resolve/{revision}/{path:path}": READ,
    "HEAD /{name}/resolve/{revision}/{path:path}": READ,
    "GET /{other}/{owner}/{name}/resolve/{revision}/{path:path}": READ,
    "HEAD /{other}/{owner}/{name}/resolve/{revision}/{path:path}": READ,
}
