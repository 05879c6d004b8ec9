"""What the server answers. Names are the API's; times are in seconds."""

from __future__ import annotations

import dataclasses
import enum
from typing import Union

from tauserve.options import GenerationOptions


class FinishReason(str, enum.Enum):
    """Why an output ended; the values are the names that tauserve-cli prints."""

    UNSPECIFIED = "unspecified"  # or a reason of a newer server
    EOS_TOKEN = "eos_token"
    STOP_TOKEN = "stop_token"
    STOP_STRING = "stop_string"
    MAX_NEW_TOKENS = "max_new_tokens"
    CONTEXT_LIMIT = "context_limit"
    TIME_LIMIT = "time_limit"
    ABORTED = "aborted"
    CONSTRAINT_COMPLETE = "constraint_complete"


@dataclasses.dataclass(frozen=True)
class TopLogprob:
    token_id: int
    logprob: float


@dataclasses.dataclass(frozen=True)
class TokenLogprob:
    """Natural logarithm of a token's probability, before sampling parameters act."""

    token_id: int
    logprob: float | None  # None: the prompt's first token, which nothing comes before
    rank: int  # 1: most probable
    top: tuple[TopLogprob, ...]


@dataclasses.dataclass(frozen=True)
class PromptInfo:
    prompt_tokens: int
    cached_tokens: int
    token_ids: tuple[int, ...]  # of return_prompt_token_ids
    logprobs: tuple[TokenLogprob, ...]  # of top_prompt_logprobs; a stream has them in PrefillProgress


@dataclasses.dataclass(frozen=True)
class Usage:
    prompt_tokens: int  # once, however many candidates
    cached_prompt_tokens: int
    completion_tokens: int  # of all candidates


@dataclasses.dataclass(frozen=True)
class Timings:
    queue: float  # arrival to first scheduled
    prefill: float  # first scheduled to first token
    time_to_first_token: float  # arrival to first token
    decode: float  # first token to last token
    total: float
    preemptions: int


def _left_out(part: int, whole: int) -> float:
    return 1 - part / whole if whole else 0.0


@dataclasses.dataclass(frozen=True)
class AttentionStats:
    """What the entmax attention of a request did, over layers, heads and steps. A block is up to 64 queries of one head
    by one page of 64 keys. A softmax model reports zeros."""

    prefill_blocks_considered: int
    prefill_blocks_scored: int  # the others were proven empty before any product
    prefill_blocks_attended: int  # hold at least one non-zero weight
    kv_pages_considered: int
    kv_pages_read: int  # the others were proven empty before any product
    keys_considered: int
    keys_scored: int
    mean_support_tokens: float  # keys of non-zero weight a query row
    mean_prefill_support_tokens: float
    mean_decode_support_tokens: float
    mean_tau_iterations: float
    wide_rows: int  # rows that took the exact slow path
    tau_unconverged_rows: int

    @property
    def prefill_blocks_skipped_share(self) -> float:
        return _left_out(self.prefill_blocks_attended, self.prefill_blocks_considered)

    @property
    def prefill_blocks_never_scored_share(self) -> float:
        return _left_out(self.prefill_blocks_scored, self.prefill_blocks_considered)

    @property
    def kv_pages_skipped_share(self) -> float:
        return _left_out(self.kv_pages_read, self.kv_pages_considered)


@dataclasses.dataclass(frozen=True)
class Candidate:
    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]
    finish_reason: FinishReason
    stop_token_id: int | None = None
    stop_string: str | None = None


@dataclasses.dataclass(frozen=True)
class Generation:
    """The answer to `generate`. `text`, `token_ids` and `finish_reason` are the first candidate's."""

    request_id: str
    model: str
    prompt: PromptInfo
    candidates: tuple[Candidate, ...]
    usage: Usage
    timings: Timings
    attention: AttentionStats

    @property
    def text(self) -> str:
        return self.candidates[0].text

    @property
    def token_ids(self) -> tuple[int, ...]:
        return self.candidates[0].token_ids

    @property
    def finish_reason(self) -> FinishReason:
        return self.candidates[0].finish_reason


# Events of a stream: Started, PrefillProgress*, CandidateDelta* and CandidateFinished of each candidate, then
# StreamCompleted.


@dataclasses.dataclass(frozen=True)
class Started:
    request_id: str
    prompt: PromptInfo


@dataclasses.dataclass(frozen=True)
class PrefillProgress:
    processed_tokens: int
    total_tokens: int
    logprobs: tuple[TokenLogprob, ...]  # of the prompt's next tokens, behind those of earlier events


@dataclasses.dataclass(frozen=True)
class CandidateDelta:
    """May have tokens but no text yet: text never splits a character, nor holds a part of what may become a stop
    string."""

    index: int
    text: str
    num_tokens: int
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]


@dataclasses.dataclass(frozen=True)
class CandidateFinished:
    index: int
    finish_reason: FinishReason
    stop_token_id: int | None = None
    stop_string: str | None = None


@dataclasses.dataclass(frozen=True)
class StreamCompleted:
    usage: Usage
    timings: Timings
    attention: AttentionStats


Event = Union[Started, PrefillProgress, CandidateDelta, CandidateFinished, StreamCompleted]


@dataclasses.dataclass(frozen=True)
class Tokenization:
    token_ids: tuple[int, ...]
    token_strings: tuple[str, ...]  # of return_token_strings: the vocabulary's own spelling


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    model: str
    architecture: str
    max_context_tokens: int
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    kv_page_tokens: int
    kv_pages_total: int
    entmax_alpha_min: float  # 1: softmax
    entmax_alpha_max: float
    num_layers: int
    num_attention_heads: int
    num_kv_heads: int
    head_dim: int
    default_sampling: GenerationOptions  # its sampling fields
    chat_template: str  # name of the one in use; empty: chats that the server is to write are refused


@dataclasses.dataclass(frozen=True)
class ServerInfo:
    version: str
    commit: str
    instance_id: str
    uptime: float
    device: str
    compiled_devices: tuple[str, ...]
    max_running_requests: int
    max_batched_tokens: int
    max_waiting_requests: int


@dataclasses.dataclass(frozen=True)
class Load:
    running_requests: int
    waiting_requests: int
    waiting_prompt_tokens: int
    kv_cache_usage_ratio: float
    since_last_step: float
    draining: bool
