"""A frame around every remote verb: errors end it with one sentence and exit code 1."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from app.cli.client import RefusedError, explain
from app.cli.output import fail_file
from app.core.errors import CoreError
from app.domain.errors import DomainError

Params = ParamSpec("Params")
Result = TypeVar("Result")


def remote(verb: Callable[Params, Result]) -> Callable[Params, Result]:
    """Turns refusals, broken connections and unusable files into sentences."""

    @wraps(verb)
    def framed(*args: Params.args, **kwargs: Params.kwargs) -> Result:
        try:
            return verb(*args, **kwargs)
        except (CoreError, DomainError) as error:
            explain(RefusedError(error.code, str(error)), _wants_json(kwargs))
        except BrokenPipeError:  # whoever read our output has seen enough
            raise
        except OSError as error:
            fail_file(error, _wants_json(kwargs))
        except Exception as error:  # noqa: BLE001  `explain` raises again what it cannot explain
            explain(error, _wants_json(kwargs))

    return framed


def _wants_json(options: dict[str, Any]) -> bool:
    return bool(options.get("as_json"))
