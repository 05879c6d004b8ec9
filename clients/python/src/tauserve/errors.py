"""What a call that did not end well raises: one class for each status of the API, all of them `TauserveError`."""

from __future__ import annotations

from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2


class TauserveError(Exception):
    """A call's status. `retry_delay` is in seconds: how long the server asks to wait before another try, if it does."""

    def __init__(self, code: grpc.StatusCode, message: str, retry_delay: float | None = None) -> None:
        super().__init__(code, message, retry_delay)
        self.code = code
        self.message = message
        self.retry_delay = retry_delay

    def __str__(self) -> str:
        again = "" if self.retry_delay is None else f" (try again in {self.retry_delay:.2f} s)"
        return f"{self.code.name}: {self.message}{again}"


class InvalidArgumentError(TauserveError):
    """A parameter is out of its range, or the prompt too long."""


class NotFoundError(TauserveError):
    """The server does not serve this model."""


class AlreadyExistsError(TauserveError):
    """A request of this id is in flight."""


class ResourceExhaustedError(TauserveError):
    """The queue is full (`retry_delay` is set), or a message is over the size limit."""


class UnavailableError(TauserveError):
    """No connection, or the server is draining or not ready."""


class UnauthenticatedError(TauserveError):
    """The server asks for a token: none was sent, or one that it does not know."""


class PermissionDeniedError(TauserveError):
    """The token is not for this service."""


class DeadlineExceededError(TauserveError):
    """The timeout has passed, or the queue is too long to keep it."""


class CancelledError(TauserveError):
    """The call was cancelled, by the server or by closing the client."""


class InternalError(TauserveError):
    """The server's fault; the message names the request."""


class ChatTemplateError(InvalidArgumentError):
    """A chat template that is rendered by the client is no template, or refuses the messages."""


_CLASSES: dict[grpc.StatusCode, type[TauserveError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhaustedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.CANCELLED: CancelledError,
    grpc.StatusCode.INTERNAL: InternalError,
}


def error_of(failure: Any) -> TauserveError:
    """From what gRPC raised, of a blocking or of an asyncio call."""
    code = failure.code()
    return _CLASSES.get(code, TauserveError)(code, failure.details() or "", _retry_delay(failure))


def _retry_delay(failure: Any) -> float | None:
    for key, value in failure.trailing_metadata() or ():
        if key != "grpc-status-details-bin":
            continue
        for detail in status_pb2.Status.FromString(value).details:
            info = error_details_pb2.RetryInfo()
            if detail.Unpack(info):
                return float(info.retry_delay.seconds + info.retry_delay.nanos * 1e-9)
    return None
