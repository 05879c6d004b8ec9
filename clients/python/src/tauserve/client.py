"""Blocking clients. One object may be used from several threads at once.

    with tauserve.Client("127.0.0.1:50051") as client:
        print(client.generate("Once upon a time").text)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, TypeVar, Union

import grpc

from tauserve import _methods, results
from tauserve._connected import Connected
from tauserve._encode import Prompt
from tauserve._methods import Call, Result
from tauserve.chat import Chat, ChatTemplate, Message
from tauserve.connection import Attempts
from tauserve.errors import TauserveError, error_of
from tauserve.options import DEFAULT_OPTIONS, GenerationOptions

_Self = TypeVar("_Self", bound="_Connected")
_Stream = TypeVar("_Stream", bound="GenerationStream")


class _Connected(Connected[grpc.Channel]):
    def _make_channel(
        self, address: str, tls: grpc.ChannelCredentials | None, options: list[tuple[str, str | int]]
    ) -> grpc.Channel:
        if tls is None:
            return grpc.insecure_channel(address, options)
        return grpc.secure_channel(address, tls, options)

    def close(self) -> None:
        """Ends the calls under way, and each later call as well, with CancelledError."""
        self._closed.set()
        self._channel.close()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, call: Call[Result], attempts: Attempts) -> Result:
        method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._open_channel().unary_unary(call.path)
        request = call.request.SerializeToString()
        while True:
            try:
                return call.parse(method(request, timeout=attempts.timeout(), metadata=self._metadata))
            except grpc.RpcError as failure:
                self._wait_after(error_of(failure), attempts)

    def _wait_after(self, error: TauserveError, attempts: Attempts) -> None:
        """Returns when the call may be tried again; else raises the error."""
        delay = attempts.delay(error)
        if delay is None or self._closed.wait(delay):
            raise error


class Client(_Connected):
    """Of the inference service: by default port 50051."""

    def generate(
        self, prompt: Prompt, options: GenerationOptions = DEFAULT_OPTIONS, *, timeout: float | None = None
    ) -> results.Generation:
        """Returns everything at once. `prompt` is text, token ids or a Chat."""
        attempts = self._attempts(timeout)
        written = self._written(prompt, options.model, attempts)
        return self._call(_methods.generate(written, options), attempts)

    def stream(
        self,
        prompt: Prompt,
        options: GenerationOptions = DEFAULT_OPTIONS,
        *,
        prefill_progress: bool = True,
        timeout: float | None = None,
    ) -> GenerationStream:
        """The same, event by event as it is made."""

        def start(attempts: Attempts) -> Call[results.Event | None]:
            return _methods.stream(self._written(prompt, options.model, attempts), options, prefill_progress)

        return GenerationStream(self, start, timeout)

    def chat(
        self,
        messages: Sequence[Message],
        options: GenerationOptions = DEFAULT_OPTIONS,
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template: ChatTemplate | str | None = None,
        timeout: float | None = None,
    ) -> results.Generation:
        """What comes next in a chat; `generate` of a Chat of the same arguments, which `stream` takes as well."""
        prompt = Chat(
            messages=messages,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            template=template,
        )
        return self.generate(prompt, options, timeout=timeout)

    def tokenize(
        self,
        prompt: Union[str, Chat],
        *,
        model: str = "",
        add_special_tokens: bool = True,
        return_token_strings: bool = False,
        timeout: float | None = None,
    ) -> results.Tokenization:
        """The tokens of a text or a chat; a chat has the special tokens of its template in any case."""
        return self._call(
            _methods.tokenize(prompt, model, add_special_tokens, return_token_strings), self._attempts(timeout)
        )

    def detokenize(
        self,
        token_ids: Sequence[int],
        *,
        model: str = "",
        skip_special_tokens: bool = True,
        timeout: float | None = None,
    ) -> str:
        return self._call(_methods.detokenize(token_ids, model, skip_special_tokens), self._attempts(timeout))

    def get_model(self, model: str = "", *, timeout: float | None = None) -> results.ModelInfo:
        return self._call(_methods.get_model(model), self._attempts(timeout))

    def _written(self, prompt: Prompt, model: str, attempts: Attempts) -> Prompt:
        """A chat that is rendered on this side, as token ids."""
        call = _methods.tokenize_rendered(prompt, model)
        return prompt if call is None else self._call(call, attempts).token_ids


class GenerationStream(Iterator[results.Event]):
    """The events of a generation, which is asked for with the first `next`. Leaving it cancels the request: the end of
    a `with`, `cancel`, which any thread may call, or dropping it as `break` out of a `for` does."""

    def __init__(
        self, client: Client, start: Callable[[Attempts], Call[results.Event | None]], timeout: float | None
    ) -> None:
        self._lock = threading.Lock()  # of the next two
        self._rpc: Any = None  # gRPC has no public name for its type
        self._cancelled = False
        self._client = client
        self._start = start
        self._attempts = client._attempts(timeout)
        self._call: Call[results.Event | None] | None = None
        self._begun = False

    def __next__(self) -> results.Event:
        while True:
            try:
                event = self._next()
            except grpc.RpcError as failure:
                if self._cancelled:
                    raise StopIteration from None
                error = error_of(failure)
                if self._begun:
                    raise error from failure
                self._client._wait_after(error, self._attempts)
                self._rpc = None
                continue
            self._begun = True
            if event is not None:
                return event

    def cancel(self) -> None:
        """No more events come, also where a thread waits for one. Once the stream has ended, nothing."""
        with self._lock:
            self._cancelled = True
            if self._rpc is not None:
                self._rpc.cancel()

    def __enter__(self: _Stream) -> _Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        self.cancel()

    def _next(self) -> results.Event | None:
        if self._call is None:
            self._call = self._start(self._attempts)
        with self._lock:
            if self._cancelled:
                raise StopIteration
            if self._rpc is None:
                method: grpc.UnaryStreamMultiCallable[bytes, bytes] = self._client._open_channel().unary_stream(
                    self._call.path
                )
                self._rpc = method(
                    self._call.request.SerializeToString(),
                    timeout=self._attempts.timeout(),
                    metadata=self._client._metadata,
                )
            rpc = self._rpc
        return self._call.parse(next(rpc))


class ControlClient(_Connected):
    """Of the control service, for operators: by default port 50052."""

    def get_server_info(self, *, timeout: float | None = None) -> results.ServerInfo:
        return self._call(_methods.get_server_info(), self._attempts(timeout))

    def get_load(self, *, timeout: float | None = None) -> results.Load:
        return self._call(_methods.get_load(), self._attempts(timeout))

    def abort_requests(self, request_ids: Sequence[str], *, timeout: float | None = None) -> tuple[str, ...]:
        """Ends these with FinishReason.ABORTED and returns which of them were in flight."""
        return self._call(_methods.abort_requests(request_ids), self._attempts(timeout)) if request_ids else ()

    def abort_all_requests(self, *, timeout: float | None = None) -> tuple[str, ...]:
        return self._call(_methods.abort_requests(()), self._attempts(timeout))

    def drain(self, drain_timeout: float | None = None, *, timeout: float | None = None) -> int:
        """Refuses new requests from now on, and returns when those in flight have ended or were aborted, which is after
        `drain_timeout` seconds (None: 30); says how many were."""
        return self._call(_methods.drain(drain_timeout), self._attempts(timeout))

    def clear_prefix_cache(self, *, timeout: float | None = None) -> int:
        """Returns how many pages are free again."""
        return self._call(_methods.clear_prefix_cache(), self._attempts(timeout))
