"""Results of the API's messages."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from google.protobuf.duration_pb2 import Duration

from tauserve import results
from tauserve._encode import SAMPLING_FIELDS
from tauserve._proto import control_pb2, inference_pb2 as pb
from tauserve.options import GenerationOptions

_REASONS = {
    value: results.FinishReason[name.removeprefix("FINISH_REASON_")]
    for name, value in pb.FinishReason.items()
    if name.removeprefix("FINISH_REASON_") in results.FinishReason.__members__
}


def generation(m: pb.GenerateResponse) -> results.Generation:
    return results.Generation(
        request_id=m.request_id,
        model=m.model,
        prompt=_prompt(m.prompt),
        candidates=tuple(map(_candidate, m.candidates)),
        usage=_usage(m.usage),
        timings=_timings(m.timings),
        attention=_attention(m.attention),
    )


def event(m: pb.GenerateStreamResponse) -> results.Event | None:
    """None: one that this client does not know, of a newer server."""
    kind = m.WhichOneof("event")
    if kind == "started":
        return results.Started(m.request_id, _prompt(m.started))
    if kind == "prefill_progress":
        progress = m.prefill_progress
        return results.PrefillProgress(
            progress.processed_tokens, progress.total_tokens, _logprobs(progress.logprobs)
        )
    if kind == "delta":
        delta = m.delta
        return results.CandidateDelta(
            delta.index, delta.text, delta.num_tokens, tuple(delta.token_ids), _logprobs(delta.logprobs)
        )
    if kind == "candidate_finished":
        return results.CandidateFinished(m.candidate_finished.index, *_finish(m.candidate_finished))
    if kind == "completed":
        completed = m.completed
        return results.StreamCompleted(
            _usage(completed.usage), _timings(completed.timings), _attention(completed.attention)
        )
    return None


def tokenization(m: pb.TokenizeResponse) -> results.Tokenization:
    return results.Tokenization(tuple(m.token_ids), tuple(m.token_strings))


def detokenized(m: pb.DetokenizeResponse) -> str:
    return m.text


def model_info(m: pb.GetModelResponse) -> results.ModelInfo:
    return results.ModelInfo(
        model=m.model,
        architecture=m.architecture,
        max_context_tokens=m.max_context_tokens,
        vocab_size=m.vocab_size,
        eos_token_ids=tuple(m.eos_token_ids),
        kv_page_tokens=m.kv_page_tokens,
        kv_pages_total=m.kv_pages_total,
        entmax_alpha_min=m.entmax_alpha_min,
        entmax_alpha_max=m.entmax_alpha_max,
        num_layers=m.num_layers,
        num_attention_heads=m.num_attention_heads,
        num_kv_heads=m.num_kv_heads,
        head_dim=m.head_dim,
        default_sampling=_sampling(m.default_sampling),
        chat_template=m.chat_template,
    )


def server_info(m: control_pb2.GetServerInfoResponse) -> results.ServerInfo:
    return results.ServerInfo(
        version=m.version,
        commit=m.commit,
        instance_id=m.instance_id,
        uptime=_seconds(m.uptime),
        device=m.device,
        compiled_devices=tuple(m.compiled_devices),
        max_running_requests=m.max_running_requests,
        max_batched_tokens=m.max_batched_tokens,
        max_waiting_requests=m.max_waiting_requests,
    )


def load(m: control_pb2.GetLoadResponse) -> results.Load:
    return results.Load(
        running_requests=m.running_requests,
        waiting_requests=m.waiting_requests,
        waiting_prompt_tokens=m.waiting_prompt_tokens,
        kv_cache_usage_ratio=m.kv_cache_usage_ratio,
        since_last_step=_seconds(m.since_last_step),
        draining=m.draining,
    )


def aborted_request_ids(m: control_pb2.AbortRequestsResponse) -> tuple[str, ...]:
    return tuple(m.aborted_request_ids)


def aborted_requests(m: control_pb2.DrainResponse) -> int:
    return m.aborted_requests


def pages_freed(m: control_pb2.ClearPrefixCacheResponse) -> int:
    return m.pages_freed


def _seconds(duration: Duration) -> float:
    return float(duration.seconds) + duration.nanos * 1e-9


def _logprobs(messages: Iterable[pb.TokenLogprob]) -> tuple[results.TokenLogprob, ...]:
    return tuple(
        results.TokenLogprob(
            token_id=m.token_id,
            logprob=m.logprob if m.HasField("logprob") else None,
            rank=m.rank,
            top=tuple(results.TopLogprob(top.token_id, top.logprob) for top in m.top),
        )
        for m in messages
    )


def _sampling(m: pb.SamplingParameters) -> GenerationOptions:
    return GenerationOptions(
        **{name: getattr(m, name) for name in SAMPLING_FIELDS if m.HasField(name)},
        logit_bias=dict(m.logit_bias),
        allowed_token_ids=tuple(m.allowed_token_ids),
        bad_words=tuple(m.bad_words),
        bad_words_ids=tuple(tuple(entry.ids) for entry in m.bad_words_ids),
    )


def _prompt(m: pb.PromptInfo) -> results.PromptInfo:
    return results.PromptInfo(m.prompt_tokens, m.cached_tokens, tuple(m.token_ids), _logprobs(m.logprobs))


def _finish(m: pb.CandidateFinished) -> tuple[results.FinishReason, int | None, str | None]:
    match = m.WhichOneof("stop_match")
    return (
        _REASONS.get(m.finish_reason, results.FinishReason.UNSPECIFIED),
        m.stop_token_id if match == "stop_token_id" else None,
        m.stop_string if match == "stop_string" else None,
    )


def _candidate(m: pb.Candidate) -> results.Candidate:
    return results.Candidate(m.index, m.text, tuple(m.token_ids), _logprobs(m.logprobs), *_finish(m.finish))


def _usage(m: pb.Usage) -> results.Usage:
    return results.Usage(m.prompt_tokens, m.cached_prompt_tokens, m.completion_tokens)


def _timings(m: pb.Timings) -> results.Timings:
    return results.Timings(
        queue=_seconds(m.queue),
        prefill=_seconds(m.prefill),
        time_to_first_token=_seconds(m.time_to_first_token),
        decode=_seconds(m.decode),
        total=_seconds(m.total),
        preemptions=m.preemptions,
    )


def _attention(m: pb.AttentionStats) -> results.AttentionStats:
    return results.AttentionStats(*(getattr(m, f.name) for f in dataclasses.fields(results.AttentionStats)))
