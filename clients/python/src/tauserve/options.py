"""What a generation is asked for. Names and meanings are the API's (proto/tauserve/inference/v1/inference.proto).

A field that is None is not sent, and then the model's default holds; 0 means 0.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union


@dataclasses.dataclass(frozen=True)
class Regex:
    """The whole text matches `pattern`."""

    pattern: str


@dataclasses.dataclass(frozen=True)
class JsonSchema:
    """The text is JSON of `schema`, which is given as JSON or as the object it stands for."""

    schema: Union[str, Mapping[str, Any]]

    def text(self) -> str:
        return self.schema if isinstance(self.schema, str) else json.dumps(self.schema, ensure_ascii=False)


@dataclasses.dataclass(frozen=True)
class JsonObject:
    """The text is any JSON object."""


StructuredOutput = Union[Regex, JsonSchema, JsonObject]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """Everything about a generation but its prompt. `dataclasses.replace` makes another one of it."""

    request_id: str = ""  # empty: the server makes one
    model: str = ""  # empty: the served model

    # Sampling.
    temperature: float | None = None  # 0: greedy
    top_k: int | None = None  # 0: off
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    num_candidates: int | None = None
    logit_bias: Mapping[int, float] = dataclasses.field(default_factory=dict)
    allowed_token_ids: Sequence[int] = ()  # empty: all
    bad_words: Sequence[str] = ()
    bad_words_ids: Sequence[Sequence[int]] = ()
    structured_output: StructuredOutput | None = None  # None: any text

    # Stopping.
    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    stop_strings: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    include_stop_in_output: bool | None = None
    ignore_eos: bool | None = None
    time_limit: float | None = None  # seconds; ends the output with FinishReason.TIME_LIMIT

    # What comes back.
    return_text: bool | None = None
    return_token_ids: bool = True  # the API's own default: False
    return_prompt_token_ids: bool | None = None
    top_logprobs: int | None = None  # set, 0 too: log-probabilities of the output's tokens
    top_prompt_logprobs: int | None = None  # and of the prompt's
    skip_special_tokens: bool | None = None

    # How it is served.
    truncate_prompt_tokens: int | None = None
    truncation_side: Literal["left", "right"] | None = None
    bypass_prefix_cache: bool | None = None
    salt: str = ""  # cached pages are shared among requests of the same salt
    priority: int | None = None  # lower is served earlier

    def __post_init__(self) -> None:
        for name in ("stop_strings", "bad_words"):
            if isinstance(getattr(self, name), str):
                raise TypeError(f"{name} is a sequence of strings, not one string")
        if self.truncation_side not in (None, "left", "right"):
            raise ValueError(f"truncation_side is {self.truncation_side!r}, neither 'left' nor 'right'")


DEFAULT_OPTIONS = GenerationOptions()
