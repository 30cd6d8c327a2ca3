"""`portllm config`: the settings that a service or worker started in this environment would have, with their sources."""

import json
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.db import HERE, Data
from app.cli.load_settings import read_settings
from app.cli.output import print_json, say
from app.cli.variables import PREFIX

if TYPE_CHECKING:
    from app.settings import Settings


def config(
    context: typer.Context,
    data: Data = HERE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show every setting with its value and its source: default, environment variable, option or file. Secrets are masked."""
    settings = read_settings(data, as_json)
    source = context.get_parameter_source("data")
    shown = effective(settings, source is not None and source.name == "COMMANDLINE")
    if as_json:
        print_json({"items": shown})
        return
    for row in shown:
        value = row["value"] if isinstance(row["value"], str) else json.dumps(row["value"])
        say(f"{row['variable']}={value}  # {row['source']}")


def effective(settings: "Settings", is_data_given: bool) -> list[dict[str, Any]]:
    """Returns variable, effective value and source of every setting; secrets are masked.

    Args:
        settings: read from the environment of this process.
        is_data_given: whether the data directory was given as a command-line option.
    """
    from app.cli.logs import MASK, redacted  # noqa: PLC0415  the service's libraries
    from app.datadir import SECRET_KEY_FILE  # noqa: PLC0415

    given = {name.upper() for name in os.environ}
    rows = []
    for field, plain in settings.model_dump(mode="json").items():
        variable = PREFIX + field.upper()
        source = "environment variable" if variable in given else "default"
        value = _shown(settings, field, plain, MASK)
        key = settings.data / SECRET_KEY_FILE
        if field == "data" and is_data_given:
            source = "option --data"
        elif field == "secret_key" and settings.secret_key is None and key.exists():
            value, source = MASK, f"file {key}"
        rows.append({"variable": variable, "value": redacted(value) if isinstance(value, str) else value, "source": source})
    return rows


def _shown(settings: "Settings", field: str, value: Any, mask: str) -> Any:
    """Returns the value of a field with secrets masked."""
    from sqlalchemy import make_url  # noqa: PLC0415

    if "SecretStr" in str(type(settings).model_fields[field].annotation):
        return [mask for _ in value] if isinstance(value, list) else value and mask
    if field != "database_url":
        return value
    url = make_url(value)
    shown = url.difference_update_query(["password"]).render_as_string(hide_password=True)
    return (
        f"{shown}{'&' if '?' in shown else '?'}password={mask}" if "password" in url.query else shown
    )  # drivers accept it there
