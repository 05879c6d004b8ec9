"""A command that did not end well: its line for people, and the process's exit code, which are tauserve-cli's."""

from __future__ import annotations

from typing import Any

from tauserve.errors import TauserveError, UnavailableError

OK = 0
REFUSED = 1
USAGE = 2
UNREACHABLE = 3
EXIT_CODES = "exit codes: 0 ok, 1 refused by the server, 2 bad flags or arguments, 3 no server that takes requests"


class UsageError(Exception):
    """Bad flags or arguments."""


def exit_code(error: TauserveError) -> int:
    return UNREACHABLE if isinstance(error, UnavailableError) else REFUSED


def failure_line(error: TauserveError) -> str:
    return str(error).replace("\r", " ").replace("\n", " ")


def error_json(error: TauserveError) -> dict[str, Any]:
    described: dict[str, Any] = {"status": error.code.name, "message": error.message}
    if error.retry_delay is not None:
        described["retry_delay_seconds"] = error.retry_delay
    return described
