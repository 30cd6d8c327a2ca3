"""Who may call what of the Hub protocol: every route at the root has a rule here, as those of the API have theirs."""

from app.wire.rules import OWN, Rule

RULES: dict[str, Rule] = {
    "GET /api/whoami-v2": OWN,
}
