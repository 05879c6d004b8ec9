"""The clients of client.py for asyncio: the same methods, awaited.

One object belongs to the event loop that it is made in.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import TypeVar, Union

import grpc
import grpc.aio

from tauserve import _methods, results
from tauserve._connected import Connected
from tauserve._encode import Prompt
from tauserve._methods import Call, Result
from tauserve.chat import Chat, ChatTemplate, Message
from tauserve.connection import Attempts
from tauserve.errors import TauserveError, error_of
from tauserve.options import DEFAULT_OPTIONS, GenerationOptions

_Self = TypeVar("_Self", bound="_Connected")
_Stream = TypeVar("_Stream", bound="AsyncGenerationStream")


class _Connected(Connected[grpc.aio.Channel]):
    def _make_channel(
        self, address: str, tls: grpc.ChannelCredentials | None, options: list[tuple[str, str | int]]
    ) -> grpc.aio.Channel:
        if tls is None:
            return grpc.aio.insecure_channel(address, options)
        return grpc.aio.secure_channel(address, tls, options)

    async def close(self) -> None:
        """Cancels the calls under way; each later one ends with CancelledError."""
        self._closed.set()
        await self._channel.close()

    async def __aenter__(self: _Self) -> _Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(self, call: Call[Result], attempts: Attempts) -> Result:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._open_channel().unary_unary(call.path)
        request = call.request.SerializeToString()
        while True:
            try:
                return call.parse(await method(request, timeout=attempts.timeout(), metadata=self._metadata))
            except grpc.aio.AioRpcError as failure:
                await self._wait_after(error_of(failure), attempts)

    async def _wait_after(self, error: TauserveError, attempts: Attempts) -> None:
        """Returns when the call may be tried again; else raises the error."""
        delay = attempts.delay(error)
        if delay is None:
            raise error
        await asyncio.sleep(delay)


class AsyncClient(_Connected):
    """Of the inference service: by default port 50051."""

    async def generate(
        self, prompt: Prompt, options: GenerationOptions = DEFAULT_OPTIONS, *, timeout: float | None = None
    ) -> results.Generation:
        """Returns everything at once. `prompt` is text, token ids or a Chat."""
        attempts = self._attempts(timeout)
        written = await self._written(prompt, options.model, attempts)
        return await self._call(_methods.generate(written, options), attempts)

    def stream(
        self,
        prompt: Prompt,
        options: GenerationOptions = DEFAULT_OPTIONS,
        *,
        prefill_progress: bool = True,
        timeout: float | None = None,
    ) -> AsyncGenerationStream:
        """The same, event by event as it is made."""

        async def start(attempts: Attempts) -> Call[results.Event | None]:
            return _methods.stream(await self._written(prompt, options.model, attempts), options, prefill_progress)

        return AsyncGenerationStream(self, start, timeout)

    async def chat(
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
        return await self.generate(prompt, options, timeout=timeout)

    async def tokenize(
        self,
        prompt: Union[str, Chat],
        *,
        model: str = "",
        add_special_tokens: bool = True,
        return_token_strings: bool = False,
        timeout: float | None = None,
    ) -> results.Tokenization:
        """The tokens of a text or a chat; a chat has the special tokens of its template in any case."""
        return await self._call(
            _methods.tokenize(prompt, model, add_special_tokens, return_token_strings), self._attempts(timeout)
        )

    async def detokenize(
        self,
        token_ids: Sequence[int],
        *,
        model: str = "",
        skip_special_tokens: bool = True,
        timeout: float | None = None,
    ) -> str:
        return await self._call(_methods.detokenize(token_ids, model, skip_special_tokens), self._attempts(timeout))

    async def get_model(self, model: str = "", *, timeout: float | None = None) -> results.ModelInfo:
        return await self._call(_methods.get_model(model), self._attempts(timeout))

    async def _written(self, prompt: Prompt, model: str, attempts: Attempts) -> Prompt:
        """A chat that is rendered on this side, as token ids."""
        call = _methods.tokenize_rendered(prompt, model)
        return prompt if call is None else (await self._call(call, attempts)).token_ids


class AsyncGenerationStream(AsyncIterator[results.Event]):
    """The events of a generation, which is asked for with the first one that is awaited. Leaving it cancels the
    request: the end of an `async with`, `cancel`, or dropping it as `break` out of an `async for` does."""

    def __init__(
        self,
        client: AsyncClient,
        start: Callable[[Attempts], Awaitable[Call[results.Event | None]]],
        timeout: float | None,
    ) -> None:
        self._rpc: grpc.aio.UnaryStreamCall[bytes, bytes] | None = None
        self._cancelled = False
        self._client = client
        self._start = start
        self._attempts = client._attempts(timeout)
        self._call: Call[results.Event | None] | None = None
        self._begun = False

    async def __anext__(self) -> results.Event:
        while True:
            try:
                event = await self._next()
            except asyncio.CancelledError:
                if not self._cancelled:  # it is the task that is cancelled
                    self.cancel()
                    raise
                raise StopAsyncIteration from None
            except grpc.aio.AioRpcError as failure:
                error = error_of(failure)
                if self._begun:
                    raise error from failure
                await self._client._wait_after(error, self._attempts)
                self._rpc = None
                continue
            self._begun = True
            if event is not None:
                return event

    def cancel(self) -> None:
        """No more events come, also where a task waits for one. Once the stream has ended, nothing."""
        self._cancelled = True
        if self._rpc is not None:
            self._rpc.cancel()

    async def __aenter__(self: _Stream) -> _Stream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        self.cancel()

    async def _next(self) -> results.Event | None:
        if self._call is None:
            self._call = await self._start(self._attempts)
        if self._cancelled:
            raise StopAsyncIteration
        if self._rpc is None:
            method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = self._client._open_channel().unary_stream(
                self._call.path
            )
            self._rpc = method(
                self._call.request.SerializeToString(),
                timeout=self._attempts.timeout(),
                metadata=self._client._metadata,
            )
        message = await self._rpc.read()
        if not isinstance(message, bytes):  # grpc.aio.EOF
            raise StopAsyncIteration
        return self._call.parse(message)


class AsyncControlClient(_Connected):
    """Of the control service, for operators: by default port 50052."""

    async def get_server_info(self, *, timeout: float | None = None) -> results.ServerInfo:
        return await self._call(_methods.get_server_info(), self._attempts(timeout))

    async def get_load(self, *, timeout: float | None = None) -> results.Load:
        return await self._call(_methods.get_load(), self._attempts(timeout))

    async def abort_requests(self, request_ids: Sequence[str], *, timeout: float | None = None) -> tuple[str, ...]:
        """Ends these with FinishReason.ABORTED and returns which of them were in flight."""
        return await self._call(_methods.abort_requests(request_ids), self._attempts(timeout)) if request_ids else ()

    async def abort_all_requests(self, *, timeout: float | None = None) -> tuple[str, ...]:
        return await self._call(_methods.abort_requests(()), self._attempts(timeout))

    async def drain(self, drain_timeout: float | None = None, *, timeout: float | None = None) -> int:
        """Refuses new requests from now on, and returns when those in flight have ended or were aborted, which is after
        `drain_timeout` seconds (None: 30); says how many were."""
        return await self._call(_methods.drain(drain_timeout), self._attempts(timeout))

    async def clear_prefix_cache(self, *, timeout: float | None = None) -> int:
        """Returns how many pages are free again."""
        return await self._call(_methods.clear_prefix_cache(), self._attempts(timeout))
