"""The API's messages of what a caller asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Union

import grpc
from google.protobuf.duration_pb2 import Duration

from tauserve import chat
from tauserve._proto import inference_pb2 as pb
from tauserve.errors import InvalidArgumentError
from tauserve.options import GenerationOptions, JsonObject, JsonSchema, Regex, StructuredOutput

# Text, token ids or a chat.
Prompt = Union[str, Sequence[int], chat.Chat]

SAMPLING_FIELDS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "num_candidates",
)
_SAMPLING_LISTS = ("allowed_token_ids", "bad_words")
_STOPPING = (
    "max_new_tokens",
    "min_new_tokens",
    "stop_strings",
    "stop_token_ids",
    "include_stop_in_output",
    "ignore_eos",
)
_RESPONSE = {
    "return_text": "text",
    "return_token_ids": "token_ids",
    "return_prompt_token_ids": "prompt_token_ids",
    "top_logprobs": "top_logprobs",
    "top_prompt_logprobs": "top_prompt_logprobs",
    "skip_special_tokens": "skip_special_tokens",
}
_SIDES = {"left": pb.TRUNCATION_SIDE_LEFT, "right": pb.TRUNCATION_SIDE_RIGHT}


def generation_input(prompt: Prompt, options: GenerationOptions) -> pb.GenerationInput:
    """A chat in it is the server's to write."""
    message = pb.GenerationInput()
    _copy(options, message, ("request_id", "model", "truncate_prompt_tokens"))
    if options.truncation_side is not None:
        message.truncation_side = _SIDES[options.truncation_side]
    _set_prompt(message, prompt)
    _set_sampling(message.sampling, options)
    _copy(options, message.stopping, _STOPPING)
    if options.time_limit is not None:
        set_duration(message.stopping.time_limit, options.time_limit, "time_limit")
    for name, field in _RESPONSE.items():
        _set(message.response, field, getattr(options, name), name)
    _copy(options, message.cache, ("bypass_prefix_cache", "salt"))
    _copy(options, message.scheduling, ("priority",))
    if options.structured_output is not None:
        _set_structured_output(message.structured_output, options.structured_output)
    return message


def chat_prompt(prompt: chat.Chat) -> pb.ChatPrompt:
    message = pb.ChatPrompt(
        add_generation_prompt=prompt.add_generation_prompt, continue_final_message=prompt.continue_final_message
    )
    for entry in map(chat.as_dict, prompt.messages):
        unknown = sorted(set(entry) - {"role", "content"})
        if unknown:
            raise _invalid(f"the server's chats have messages of role and content alone, not {', '.join(unknown)}")
        added = message.messages.add()
        _set(added, "role", entry.get("role"))
        _set(added, "content", entry.get("content"))
    return message


def set_duration(duration: Duration, seconds: float, name: str) -> None:
    if not 0 <= seconds < 1e9:
        raise _invalid(f"{name} is {seconds} s")
    duration.seconds = int(seconds)
    duration.nanos = int((seconds - int(seconds)) * 1e9)


def _set_prompt(message: pb.GenerationInput, prompt: Prompt) -> None:
    if isinstance(prompt, str):
        _set(message, "text", prompt, "prompt")
    elif isinstance(prompt, chat.Chat):
        message.chat.CopyFrom(chat_prompt(prompt))
    else:
        message.token_ids.SetInParent()
        _set(message.token_ids, "ids", list(prompt), "prompt")


def _set_sampling(message: pb.SamplingParameters, options: GenerationOptions) -> None:
    _copy(options, message, SAMPLING_FIELDS + _SAMPLING_LISTS)
    try:
        message.logit_bias.update(options.logit_bias)
    except ValueError as failure:
        raise _invalid(f"logit_bias: {failure}") from failure
    for ids in options.bad_words_ids:
        _set(message.bad_words_ids.add(), "ids", ids, "bad_words_ids")


def _set_structured_output(message: pb.StructuredOutput, constraint: StructuredOutput) -> None:
    if isinstance(constraint, Regex):
        _set(message, "regex", constraint.pattern)
    elif isinstance(constraint, JsonSchema):
        _set(message, "json_schema", constraint.text())
    elif isinstance(constraint, JsonObject):
        message.json_object.SetInParent()
    else:
        raise TypeError(f"structured_output is {constraint!r}, no Regex, JsonSchema or JsonObject")


def _copy(options: GenerationOptions, message: Any, names: Sequence[str]) -> None:
    for name in names:
        _set(message, name, getattr(options, name))


def _set(message: Any, field: str, value: Any, name: str | None = None) -> None:
    """Leaves the field unset where the value is None. What the field can't hold is an InvalidArgumentError that has
    `name`, or the field's; a value of another type, a TypeError."""
    if value is None:
        return
    try:
        if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
            getattr(message, field).extend(value)
        else:
            setattr(message, field, value)
    except ValueError as failure:
        raise _invalid(f"{name or field}: {failure}") from failure
    except TypeError as failure:
        raise TypeError(f"{name or field}: {failure}") from failure


def _invalid(message: str) -> InvalidArgumentError:
    return InvalidArgumentError(grpc.StatusCode.INVALID_ARGUMENT, message)
