"""What the blocking clients and those for asyncio have in common."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

import grpc

from tauserve import connection
from tauserve.connection import Attempts, Credentials, RetryPolicy
from tauserve.errors import CancelledError

Channel = TypeVar("Channel")


class Connected(Generic[Channel]):
    def __init__(
        self,
        address: str,
        *,
        credentials: Credentials = Credentials(),
        timeout: float | None = None,
        retry: RetryPolicy = RetryPolicy(),
    ) -> None:
        """Connects with the first call. `timeout` is each call's that names none, in seconds, all tries and the pauses
        between them included; None: no limit."""
        self._channel = self._make_channel(
            address, connection.tls(credentials), connection.channel_options(credentials, retry)
        )
        self._metadata = connection.call_metadata(credentials)
        self._timeout = timeout
        self._retry = retry
        self._closed = threading.Event()

    def _make_channel(
        self, address: str, tls: grpc.ChannelCredentials | None, options: list[tuple[str, str | int]]
    ) -> Channel:
        raise NotImplementedError

    def _open_channel(self) -> Channel:
        if self._closed.is_set():
            raise CancelledError(grpc.StatusCode.CANCELLED, "the client is closed")
        return self._channel

    def _attempts(self, timeout: float | None) -> Attempts:
        return Attempts(self._retry, self._timeout if timeout is None else timeout)
