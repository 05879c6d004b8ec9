"""The API's calls: what is sent, what comes back, and what a caller gets of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from google.protobuf.message import Message

from tauserve import _decode, _encode, results
from tauserve._encode import Prompt
from tauserve._proto import control_pb2, inference_pb2 as pb
from tauserve.chat import Chat
from tauserve.options import GenerationOptions

Result = TypeVar("Result")
_INFERENCE = "/tauserve.inference.v1.InferenceService/"
_CONTROL = "/tauserve.inference.v1.ControlService/"


@dataclasses.dataclass(frozen=True)
class Call(Generic[Result]):
    """A call that is ready to be made, of either client."""

    path: str
    request: Message
    parse: Callable[[bytes], Result]


def generate(prompt: Prompt, options: GenerationOptions) -> Call[results.Generation]:
    request = pb.GenerateRequest(input=_encode.generation_input(prompt, options))
    return Call(_INFERENCE + "Generate", request, lambda b: _decode.generation(pb.GenerateResponse.FromString(b)))


def stream(prompt: Prompt, options: GenerationOptions, prefill_progress: bool) -> Call[results.Event | None]:
    request = pb.GenerateStreamRequest(
        input=_encode.generation_input(prompt, options), stream=pb.StreamOptions(prefill_progress=prefill_progress)
    )
    return Call(
        _INFERENCE + "GenerateStream", request, lambda b: _decode.event(pb.GenerateStreamResponse.FromString(b))
    )


def tokenize(
    prompt: str | Chat, model: str, add_special_tokens: bool, return_token_strings: bool
) -> Call[results.Tokenization]:
    rendered = _rendered(prompt)
    if rendered is not None:  # the template has written the special tokens
        prompt, add_special_tokens = rendered, False
    request = pb.TokenizeRequest(
        model=model, add_special_tokens=add_special_tokens, return_token_strings=return_token_strings
    )
    if isinstance(prompt, str):
        request.text = prompt
    else:
        request.chat.CopyFrom(_encode.chat_prompt(prompt))
    return Call(_INFERENCE + "Tokenize", request, lambda b: _decode.tokenization(pb.TokenizeResponse.FromString(b)))


def tokenize_rendered(prompt: Prompt, model: str) -> Call[results.Tokenization] | None:
    """Of a chat that is rendered on this side; None: the server takes the prompt as it is."""
    text = _rendered(prompt)
    return None if text is None else tokenize(text, model, add_special_tokens=False, return_token_strings=False)


def detokenize(token_ids: Sequence[int], model: str, skip_special_tokens: bool) -> Call[str]:
    request = pb.DetokenizeRequest(model=model, token_ids=token_ids, skip_special_tokens=skip_special_tokens)
    return Call(_INFERENCE + "Detokenize", request, lambda b: _decode.detokenized(pb.DetokenizeResponse.FromString(b)))


def get_model(model: str) -> Call[results.ModelInfo]:
    request = pb.GetModelRequest(model=model)
    return Call(_INFERENCE + "GetModel", request, lambda b: _decode.model_info(pb.GetModelResponse.FromString(b)))


def get_server_info() -> Call[results.ServerInfo]:
    return Call(
        _CONTROL + "GetServerInfo",
        control_pb2.GetServerInfoRequest(),
        lambda b: _decode.server_info(control_pb2.GetServerInfoResponse.FromString(b)),
    )


def get_load() -> Call[results.Load]:
    return Call(
        _CONTROL + "GetLoad",
        control_pb2.GetLoadRequest(),
        lambda b: _decode.load(control_pb2.GetLoadResponse.FromString(b)),
    )


def abort_requests(request_ids: Sequence[str]) -> Call[tuple[str, ...]]:
    return Call(
        _CONTROL + "AbortRequests",
        control_pb2.AbortRequestsRequest(request_ids=request_ids),
        lambda b: _decode.aborted_request_ids(control_pb2.AbortRequestsResponse.FromString(b)),
    )


def drain(drain_timeout: float | None) -> Call[int]:
    request = control_pb2.DrainRequest()
    if drain_timeout is not None:
        _encode.set_duration(request.timeout, drain_timeout, "drain_timeout")
    return Call(
        _CONTROL + "Drain", request, lambda b: _decode.aborted_requests(control_pb2.DrainResponse.FromString(b))
    )


def clear_prefix_cache() -> Call[int]:
    return Call(
        _CONTROL + "ClearPrefixCache",
        control_pb2.ClearPrefixCacheRequest(),
        lambda b: _decode.pages_freed(control_pb2.ClearPrefixCacheResponse.FromString(b)),
    )


def _rendered(prompt: Prompt) -> str | None:
    return prompt.rendered() if isinstance(prompt, Chat) else None
