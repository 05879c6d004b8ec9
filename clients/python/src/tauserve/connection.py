"""How a server is reached: who the client is, whom it believes, and when a call is tried again."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import time
from typing import Union

import grpc

from tauserve.errors import ResourceExhaustedError, TauserveError

_File = Union[str, "os.PathLike[str]", None]
_SERVICES = ("tauserve.inference.v1.InferenceService", "tauserve.inference.v1.ControlService")


@dataclasses.dataclass(frozen=True)
class Credentials:
    """Contents of files, not their names; `from_files` reads these."""

    tls_ca: bytes | None = None  # PEM, authorities of the server's certificate; None: no TLS
    tls_cert: bytes | None = None  # PEM, the client's certificate, if the server asks for one
    tls_key: bytes | None = dataclasses.field(default=None, repr=False)  # PEM, its key
    tls_server_name: str | None = None  # in the server's certificate, if it is not the address's host
    token: str | None = dataclasses.field(default=None, repr=False)  # sent with each call

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key need both")
        if self.tls_ca is None and self.tls_cert is not None:
            raise ValueError("tls_cert is set without tls_ca")
        # Its text is a secret, so it is in no message.
        if self.token is not None and not all("!" <= c <= "~" for c in self.token):
            raise ValueError("token is none: it has spaces, or characters other than ASCII")

    @classmethod
    def from_files(
        cls,
        *,
        tls_ca: _File = None,
        tls_cert: _File = None,
        tls_key: _File = None,
        tls_server_name: str | None = None,
        token_file: _File = None,
    ) -> Credentials:
        token = _read(token_file)
        return cls(
            tls_ca=_read(tls_ca),
            tls_cert=_read(tls_cert),
            tls_key=_read(tls_key),
            tls_server_name=tls_server_name,
            token=None if token is None else token.decode().strip(),
        )


@dataclasses.dataclass(frozen=True)
class RetryPolicy:
    """What is tried again: a call that found no server that takes it (UNAVAILABLE), by gRPC, with growing pauses; and
    one that a full queue refused (RESOURCE_EXHAUSTED), after the delay that the server names. A stream only before its
    first event."""

    max_attempts: int = 4  # all together; 1: never again; gRPC allows 5
    initial_backoff: float = 0.1  # seconds
    max_backoff: float = 2.0

    def __post_init__(self) -> None:
        if not 1 <= self.max_attempts <= 5:
            raise ValueError(f"max_attempts is {self.max_attempts}, not in [1, 5]")
        if not 0 < self.initial_backoff <= self.max_backoff:
            raise ValueError(f"initial_backoff is {self.initial_backoff}, not in (0, max_backoff = {self.max_backoff}]")


def channel_options(credentials: Credentials, retry: RetryPolicy) -> list[tuple[str, str | int]]:
    options: list[tuple[str, str | int]] = [
        ("grpc.primary_user_agent", "tauserve-python"),
        # The server's limits hold for what it takes; log-probabilities of a long prompt are large.
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        # A connection of this client's own.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.service_config", _service_config(retry)),
    ]
    if credentials.tls_server_name:
        options.append(("grpc.ssl_target_name_override", credentials.tls_server_name))
    return options


def call_metadata(credentials: Credentials) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {credentials.token}"),) if credentials.token else ()


def tls(credentials: Credentials) -> grpc.ChannelCredentials | None:
    """None: without TLS."""
    if credentials.tls_ca is None:
        return None
    return grpc.ssl_channel_credentials(credentials.tls_ca, credentials.tls_key, credentials.tls_cert)


class Attempts:
    """The tries of one call, and how much is left of its time."""

    def __init__(self, retry: RetryPolicy, timeout: float | None) -> None:
        self._left = retry.max_attempts - 1
        self._deadline = None if timeout is None else time.monotonic() + timeout

    def timeout(self) -> float | None:
        """Of the next try."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def delay(self, error: TauserveError) -> float | None:
        """Seconds before the next try; None: there is none. gRPC has tried again by itself where the server was not
        available."""
        if not isinstance(error, ResourceExhaustedError) or error.retry_delay is None or self._left == 0:
            return None
        timeout = self.timeout()
        if timeout is not None and timeout <= error.retry_delay:
            return None
        self._left -= 1
        return error.retry_delay


def _service_config(retry: RetryPolicy) -> str:
    method = {"name": [{"service": service} for service in _SERVICES]}
    policy = {
        "maxAttempts": retry.max_attempts,
        "initialBackoff": f"{retry.initial_backoff}s",
        "maxBackoff": f"{retry.max_backoff}s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    return json.dumps({"methodConfig": [{**method, "retryPolicy": policy}] if retry.max_attempts > 1 else []})


def _read(file: _File) -> bytes | None:
    return None if file is None else pathlib.Path(file).read_bytes()
