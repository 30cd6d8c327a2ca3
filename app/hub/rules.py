"""Who may call what of the Hub protocol: every route at the root has a rule here, as those of the API have theirs."""

from app.wire.rules import OWN, READ, Rule

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
    # -- what clients may ask for and is never here
    "GET /api/models/{name}": READ,
    "GET /api/datasets/{rest:path}": READ,
    "GET /api/spaces/{rest:path}": READ,
    "GET /{name}/resolve/{revision}/{path:path}": READ,
    "HEAD /{name}/resolve/{revision}/{path:path}": READ,
    "GET /{other}/{owner}/{name}/resolve/{revision}/{path:path}": READ,
    "HEAD /{other}/{owner}/{name}/resolve/{revision}/{path:path}": READ,
}
