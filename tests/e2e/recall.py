"""The shipped recall prompts: a long text with facts in it, a question, and its answer."""

import json

from protos import ROOT, inference
from requests_made import generation, kinds, stream


def cases(size):
    path = ROOT / "models" / "prompts" / f"recall-{size}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def check(server, case, most_attended, timeout=None):
    """`most_attended`: share of blocks that may hold a non-zero weight; longer prompts are sparser."""
    events = list(stream(server, generation(case["prompt"], max_new_tokens=24), timeout=timeout))
    text = "".join(event.delta.text for event in events if event.WhichOneof("event") == "delta")
    assert text.strip() == case["answer"]
    assert events[0].started.prompt_tokens == case["tokens"]
    assert events[-2].candidate_finished.finish_reason == inference.FINISH_REASON_EOS_TOKEN
    assert "prefill_progress" in kinds(events)
    attention = events[-1].completed.attention
    assert attention.tau_unconverged_rows == 0
    assert attention.prefill_blocks_attended < most_attended * attention.prefill_blocks_considered
