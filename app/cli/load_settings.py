"""The settings of the verbs that run the service or look at its database: one place that reads them, and says what is wrong."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.cli import variables
from app.cli.output import EXIT_USAGE, fail
from app.cli.variables import PREFIX

if TYPE_CHECKING:
    from app.settings import Settings

DATA_VARIABLE = "PORTLLM_DATA"  # for the option --data of all commands
WORDS = {
    "Input should": "must",
    "Field required": "must have this field",
    "Unexpected keyword argument": "must not have this field",
}
EXAMPLES = {
    "allow_roots": "'[\"/models\"]'",
    "allow_s3": "'[\"s3://BUCKET/models\"]'",
    "oidc": "'[{\"issuer\": ...}]'",
    "secret_keys_accepted": "'[\"OLD KEY\"]'",
    "trusted_proxies": "'[\"10.0.0.1\"]'",
}


def read_settings(data: Path, as_json: bool = False) -> "Settings":
    """The settings of this environment.

    On an error, exits with code 2 and one sentence. It names each unknown variable and the nearest valid name (settings.unknown),
    or each invalid variable and its valid values (settings.invalid). It never shows the value itself, which may hold a password.
    """
    from pydantic import ValidationError  # noqa: PLC0415  `portllm ls` need not pay for the service's libraries
    from pydantic_settings import SettingsError  # noqa: PLC0415

    from app.settings import Settings  # noqa: PLC0415

    if found := variables.unknown(os.environ, Settings.model_fields):
        fail("settings.unknown", f"{'; '.join(map(_unknown, found.items()))}.", as_json, EXIT_USAGE)
    try:
        return Settings(data=data)
    except ValidationError as error:
        reasons = [_reason(e["loc"], e["msg"]) for e in error.errors(include_url=False, include_input=False)]
        fail("settings.invalid", f"{'; '.join(reasons)}.", as_json, EXIT_USAGE)
    except SettingsError as error:  # a list that is no JSON, found before anything is validated
        fail("settings.invalid", f"{_no_list(str(error))}.", as_json, EXIT_USAGE)


def _unknown(found: tuple[str, str | None]) -> str:
    name, nearest = found
    return f"{name} is not a setting ({f'the nearest is {nearest}' if nearest else 'portllm config lists them'})"


def _no_list(text: str) -> str:
    """What to say of the field that the text names in quotes."""
    lists = {name: example for name, example in EXAMPLES.items() if f'"{name}"' in text} or EXAMPLES
    return "; ".join(f"{_variable(name)} must be a list in JSON, for example {example}" for name, example in lists.items())


def _reason(place: tuple[Any, ...], message: str) -> str:
    message = message.removeprefix("Value error, ")
    if not place:  # about several settings, which it names
        return message
    for theirs, ours in WORDS.items():
        message = message.replace(theirs, ours, 1)
    inside = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place[1:])
    return f"{_variable(str(place[0]))} {message}{f' (at {inside})' if inside else ''}"


def _variable(field: str) -> str:
    return PREFIX + field.upper()
