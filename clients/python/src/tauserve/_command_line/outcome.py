"""All that is known of a generation, collected from its stream; for people and, with tauserve-cli's keys, as JSON."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from typing import Any

from tauserve import results
from tauserve._command_line.failure import error_json
from tauserve.errors import TauserveError


@dataclasses.dataclass
class CandidateOutcome:
    text: str = ""
    token_ids: list[int] = dataclasses.field(default_factory=list)
    logprobs: list[results.TokenLogprob] = dataclasses.field(default_factory=list)
    finished: results.CandidateFinished | None = None


@dataclasses.dataclass
class Outcome:
    request_id: str = ""
    prompt_tokens: int = 0
    processed_prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_logprobs: list[results.TokenLogprob] = dataclasses.field(default_factory=list)
    candidates: list[CandidateOutcome] = dataclasses.field(default_factory=lambda: [CandidateOutcome()])
    completed: results.StreamCompleted | None = None
    start: float = dataclasses.field(default_factory=time.monotonic)

    def add(self, event: results.Event) -> None:
        if isinstance(event, results.Started):
            self.request_id = event.request_id
            self.prompt_tokens = event.prompt.prompt_tokens
            self.processed_prompt_tokens = event.prompt.cached_tokens
        elif isinstance(event, results.PrefillProgress):
            self.processed_prompt_tokens = event.processed_tokens
            self.prompt_logprobs.extend(event.logprobs)
        elif isinstance(event, results.CandidateDelta):
            self.processed_prompt_tokens = self.prompt_tokens
            self.completion_tokens += event.num_tokens
            candidate = self._candidate(event.index)
            candidate.text += event.text
            candidate.token_ids.extend(event.token_ids)
            candidate.logprobs.extend(event.logprobs)
        elif isinstance(event, results.CandidateFinished):
            self._candidate(event.index).finished = event
        else:
            self.completed = event

    def to_json(self, error: TauserveError | None) -> dict[str, Any]:
        described = {"request_id": self.request_id, **_text_json(self.candidates[0])}
        if len(self.candidates) > 1:
            described["candidates"] = [
                {"index": index, **_text_json(candidate), **_finish_json(candidate.finished)}
                for index, candidate in enumerate(self.candidates)
            ]
        if self.prompt_logprobs:
            described["prompt_logprobs"] = _logprobs_json(self.prompt_logprobs)
        if self.completed is None:
            described["progress"] = {
                "prompt_tokens": self.prompt_tokens,
                "processed_prompt_tokens": self.processed_prompt_tokens,
                "completion_tokens": self.completion_tokens,
                "elapsed_seconds": time.monotonic() - self.start,
            }
        else:
            described |= {**_finish_json(self.candidates[0].finished), **self._completion_json(self.completed)}
        if error is not None:
            described["error"] = error_json(error)
        return described

    def summary(self) -> str:
        """Several lines; of a generation that was cut off, how far it got."""
        if self.completed is None:
            return (
                f"cut off      after {time.monotonic() - self.start:.3f} s: {self.processed_prompt_tokens} of "
                f"{self.prompt_tokens} prompt tokens read, {self.completion_tokens} generated"
            )
        usage, timings, attention = self.completed.usage, self.completed.timings, self.completed.attention
        reasons = ", ".join(c.finished.finish_reason.value for c in self.candidates if c.finished)
        lines = [
            f"prompt       {usage.prompt_tokens} tokens ({usage.cached_prompt_tokens} cached), prefill "
            f"{timings.prefill:.3f} s, {self._prefill_rate(self.completed):.0f} tokens/s",
            f"first token  after {timings.time_to_first_token:.3f} s ({timings.queue:.3f} s in the queue)",
            f"output       {usage.completion_tokens} tokens, ended by {reasons}, "
            f"{self._decode_rate(self.completed):.1f} tokens/s",
        ]
        if attention.keys_considered:  # a softmax model reports no sparsity
            lines += [
                f"support      {attention.mean_support_tokens:.1f} keys a row (prefill "
                f"{attention.mean_prefill_support_tokens:.1f}, decode {attention.mean_decode_support_tokens:.1f}), "
                f"{attention.mean_tau_iterations:.2f} tau iterations",
                f"prefill      {attention.prefill_blocks_skipped_share:.1%} of blocks skipped, "
                f"{attention.prefill_blocks_never_scored_share:.1%} never scored",
            ]
        if attention.kv_pages_considered:
            lines.append(f"decode       {attention.kv_pages_skipped_share:.1%} of KV pages skipped")
        return "\n".join(lines)

    def _candidate(self, index: int) -> CandidateOutcome:
        while len(self.candidates) <= index:
            self.candidates.append(CandidateOutcome())
        return self.candidates[index]

    def _prefill_rate(self, completed: results.StreamCompleted) -> float:
        usage = completed.usage
        return _rate(usage.prompt_tokens - usage.cached_prompt_tokens, completed.timings.prefill)

    def _decode_rate(self, completed: results.StreamCompleted) -> float:
        """Decoding begins with each candidate's second token: the first one comes out of prefill."""
        return _rate(completed.usage.completion_tokens - len(self.candidates), completed.timings.decode)

    def _completion_json(self, completed: results.StreamCompleted) -> dict[str, Any]:
        attention, timings = completed.attention, dataclasses.asdict(completed.timings)
        preemptions = timings.pop("preemptions")
        return {
            "usage": dataclasses.asdict(completed.usage),
            "timings": {
                **{f"{name}_seconds": seconds for name, seconds in timings.items()},
                "preemptions": preemptions,
                "prefill_tokens_per_second": self._prefill_rate(completed),
                "decode_tokens_per_second": self._decode_rate(completed),
            },
            "attention": {
                **dataclasses.asdict(attention),
                "prefill_blocks_skipped_share": attention.prefill_blocks_skipped_share,
                "prefill_blocks_never_scored_share": attention.prefill_blocks_never_scored_share,
                "kv_pages_skipped_share": attention.kv_pages_skipped_share,
            },
        }


def _rate(count: int, seconds: float) -> float:
    return max(0, count) / seconds if seconds > 0 else 0.0


def _text_json(candidate: CandidateOutcome) -> dict[str, Any]:
    described: dict[str, Any] = {"text": candidate.text}
    if candidate.token_ids:
        described["token_ids"] = candidate.token_ids
    if candidate.logprobs:
        described["logprobs"] = _logprobs_json(candidate.logprobs)
    return described


def _logprobs_json(logprobs: Iterable[results.TokenLogprob]) -> list[dict[str, Any]]:
    described = []
    for entry in logprobs:
        item: dict[str, Any] = {"token_id": entry.token_id}
        if entry.logprob is not None:
            item |= {"logprob": entry.logprob, "rank": entry.rank}
        if entry.top:
            item["top"] = [dataclasses.asdict(top) for top in entry.top]
        described.append(item)
    return described


def _finish_json(finished: results.CandidateFinished | None) -> dict[str, Any]:
    if finished is None:
        return {}
    described: dict[str, Any] = {"finish_reason": finished.finish_reason.value}
    if finished.stop_string is not None:
        described["stop_string"] = finished.stop_string
    if finished.stop_token_id is not None:
        described["stop_token_id"] = finished.stop_token_id
    return described
