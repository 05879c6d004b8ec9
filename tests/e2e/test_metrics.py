"""The scrape and the log: complete, well-formed, true."""

import math
import random
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request

import grpc
import pytest

from protos import inference
from requests_made import generate, generation, long_generation, read_until, refused, stream
from server_process import Server, wait_until

GAUGES = ["requests_running", "requests_waiting", "waiting_prompt_tokens", "kv_cache_usage_ratio", "kv_pages_free",
          "kv_cache_info", "engine_last_step_timestamp_seconds", "engine_stuck", "draining", "build_info", "model_info",
          "startup_seconds"]
COUNTERS = ["requests_total", "admission_rejections_total", "unauthorized_calls_total", "prompt_tokens_total",
            "prefill_tokens_total", "generation_tokens_total", "constraints_total", "prefix_cache_query_tokens_total", "prefix_cache_hit_tokens_total",
            "engine_steps_total", "nonfinite_logits_total",
            "attention_prefill_blocks_considered_total", "attention_prefill_blocks_scored_total",
            "attention_prefill_blocks_computed_total", "attention_decode_blocks_considered_total",
            "attention_decode_blocks_scored_total", "attention_decode_blocks_computed_total", "attention_kv_pages_considered_total",
            "attention_kv_pages_read_total", "attention_kv_read_bytes_total", "attention_keys_considered_total",
            "attention_keys_scored_total", "attention_keys_support_total", "attention_wide_rows_total",
            "attention_tau_unconverged_rows_total"]
HISTOGRAMS = ["time_to_first_token_seconds", "inter_token_latency_seconds", "request_duration_seconds",
              "request_queue_seconds", "request_prefill_seconds", "request_decode_seconds", "step_duration_seconds",
              "request_attention_sparsity_ratio", "attention_support_tokens", "attention_tau_iterations",
              "attention_tau_residual", "constraint_compile_seconds", "constraint_mask_seconds"]
PROCESS = {"process_cpu_seconds_total", "process_resident_memory_bytes", "process_start_time_seconds", "process_open_fds",
           "process_max_fds"}


@pytest.fixture(scope="module")
def fresh():
    with Server() as running:
        yield running


def test_every_family_is_there_before_the_first_request(fresh):
    metrics = fresh.metrics()
    for name in GAUGES + COUNTERS + [f"{h}_count" for h in HISTOGRAMS]:
        assert metrics.has(name), name
    for name in COUNTERS + [f"{h}_count" for h in HISTOGRAMS]:
        assert metrics.sum(name) == 0, name
    for code in ("OK", "CANCELLED", "DEADLINE_EXCEEDED", "INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS",
                 "RESOURCE_EXHAUSTED", "UNAVAILABLE", "INTERNAL"):
        assert any(n == "tauserve_requests_total" and l["code"] == code for n, l, _ in metrics.samples), code
    assert metrics.sum("engine_last_step_timestamp_seconds") == metrics.sum("engine_stuck") == metrics.sum("draining") == 0
    assert metrics.sum("build_info") == metrics.sum("model_info") == metrics.sum("kv_cache_info") == 1


def test_names_and_labels(fresh):
    text = fresh.scrape()
    assert ":" not in "".join(line.split(" ")[0].split("{")[0] for line in text.splitlines() if line[0] != "#")
    samples = fresh.metrics().samples
    assert {name for name, labels, _ in samples if name.startswith("process_") and not labels} == PROCESS
    for name, labels, _ in samples:
        if name in PROCESS:
            continue
        assert name.startswith("tauserve_"), name
        assert labels.get("model_name") == "recall-9m", name


@pytest.mark.parametrize("when", ["before", "after"])
def test_promtool(fresh, when):
    if when == "after":
        generate(fresh)
        refused(lambda: generate(fresh, ""), grpc.StatusCode.INVALID_ARGUMENT)
    promtool = shutil.which("promtool")
    assert promtool, "promtool is not installed: run deploy/setup.sh"
    done = subprocess.run([promtool, "check", "metrics"], input=fresh.scrape(), capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_idle_engine_waits_and_says_so(fresh):
    fresh.wait_idle()
    started = next(value for name, _, value in fresh.metrics().samples if name == "process_start_time_seconds")
    assert abs(time.time() - started) < 600
    begin, before = time.monotonic(), fresh.metrics()
    after = wait_until(lambda: m if (m := fresh.metrics()).sum("engine_seconds_total", phase="wait")
                       > before.sum("engine_seconds_total", phase="wait") + 0.2 else None, "0.2 s of waiting")
    assert after.sum("engine_seconds_total") - before.sum("engine_seconds_total") <= time.monotonic() - begin
    assert after.sum("engine_seconds_total", phase="model") == before.sum("engine_seconds_total", phase="model")


def test_http(fresh):
    address = f"http://{fresh.serving['metrics']}"
    with urllib.request.urlopen(f"{address}/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    with urllib.request.urlopen(f"{address}/healthz") as response:
        assert response.read() == b"ok\n"
    post = urllib.request.Request(f"{address}/metrics", data=b"x")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(post)
    assert caught.value.code == 405
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{address}/nothing/here")
    assert caught.value.code == 404


def test_one_request_is_counted_truly(fresh):
    fresh.wait_idle()
    before = fresh.metrics()
    prompt = [0] + [400 + i % 900 for i in range(499)]
    response = generate(fresh, prompt, max_new_tokens=11, stopping={"ignore_eos": True}, cache={"salt": "metrics"})
    after = fresh.metrics()

    def grew(name, **labels):
        return after.sum(name, **labels) - before.sum(name, **labels)

    assert grew("requests_total") == grew("requests_total", code="OK", finish_reason="max_new_tokens") == 1
    assert grew("prompt_tokens_total") == grew("prefill_tokens_total") == 500 and grew("generation_tokens_total") == 11
    assert grew("prefix_cache_query_tokens_total") == 500 and grew("prefix_cache_hit_tokens_total") == 0
    assert grew("engine_steps_total") == grew("step_duration_seconds_count") == 11
    assert grew("step_duration_seconds_count", kind="decode") == 10
    for name in ("time_to_first_token_seconds", "request_duration_seconds", "request_queue_seconds",
                 "request_prefill_seconds", "request_decode_seconds"):
        assert grew(f"{name}_count") == 1, name
    assert grew("inter_token_latency_seconds_count") == 10
    assert grew("time_to_first_token_seconds_sum") == pytest.approx(
        response.timings.time_to_first_token.ToTimedelta().total_seconds(), abs=1e-4)
    a = response.attention
    assert grew("attention_prefill_blocks_considered_total") == a.prefill_blocks_considered
    assert grew("attention_prefill_blocks_computed_total") == a.prefill_blocks_attended
    assert grew("attention_kv_pages_considered_total") == a.kv_pages_considered
    # 48 heads, ten tokens at positions 500 to 509, pages of 64.
    assert grew("attention_decode_blocks_considered_total") == 48 * 10 * 8
    assert grew("attention_decode_blocks_considered_total") >= grew("attention_decode_blocks_scored_total") \
        >= grew("attention_decode_blocks_computed_total") >= 48 * 10
    assert grew("attention_keys_considered_total") == a.keys_considered == 48 * sum(range(1, 511))
    assert grew("attention_keys_support_total") == pytest.approx(a.mean_support_tokens * 48 * 510, rel=1e-6)
    assert grew("attention_support_tokens_count") == grew("attention_tau_iterations_count") == 48 * 510
    assert grew("attention_support_tokens_sum") == grew("attention_keys_support_total")
    assert grew("attention_kv_read_bytes_total") > 0
    assert grew("request_attention_sparsity_ratio_count") == 2
    sparsity = 1 - grew("attention_keys_support_total", phase="prefill") / grew("attention_keys_considered_total", phase="prefill")
    assert grew("request_attention_sparsity_ratio_sum", phase="prefill") == pytest.approx(sparsity, abs=1e-6)
    assert after.sum("engine_last_step_timestamp_seconds") > 1.6e9


def test_gauges_follow_the_requests(fresh):
    fresh.wait_idle()
    total = fresh.metrics().sum("kv_pages_free")
    call = stream(fresh, long_generation(max_new_tokens=6400))
    read_until(call, "delta")
    metrics = fresh.metrics()
    assert metrics.sum("requests_running") == 1
    used = total - metrics.sum("kv_pages_free")
    assert used >= 1
    assert metrics.sum("kv_cache_usage_ratio") == pytest.approx(used / total)
    call.cancel()
    fresh.wait_idle()
    assert fresh.metrics().sum("kv_pages_free") == total


def test_log_line_of_a_request(fresh):
    secret = "Once upon a time the secret word was zanzibar."
    generate(fresh, secret, request_id="logged", max_new_tokens=5, stopping={"ignore_eos": True})
    refused(lambda: generate(fresh, secret, request_id='quote"\\', temperature=-1), grpc.StatusCode.INVALID_ARGUMENT)
    lines = {line["request_id"]: line for line in fresh.events("request_end")}
    line = lines["logged"]
    assert line["code"] == "OK" and line["finish_reason"] == "max_new_tokens" and line["level"] == "info"
    assert line["new_tokens"] == 5 and line["prompt_tokens"] > 5 and line["cached_tokens"] == 0
    assert line["total_ms"] >= line["queue_ms"] + line["prefill_ms"] + line["decode_ms"] - 0.01
    assert line["prefill_support"] >= 1 and line["decode_support"] >= 1
    refusal = lines['quote"\\']
    assert refusal["code"] == "INVALID_ARGUMENT" and "-1" in refusal["message"]
    assert "zanzibar" not in fresh.log()


def test_random_mix_leaves_nothing_behind(server):
    """200 requests at random, a third of them cancelled at a random moment: all are counted, all pages come back."""
    server.wait_idle()
    before = server.metrics()
    random_source = random.Random(20)
    outcomes = []
    lock = threading.Lock()

    def one(seed):
        source = random.Random(seed)
        prompt = [0] + [source.randrange(300, 4000) for _ in range(source.choice([1, 30, 63, 64, 200, 700]))]
        stopping = {"ignore_eos": source.random() < 0.5, "max_new_tokens": source.choice([1, 5, 20, 60])}
        message = generation(prompt, temperature=source.choice([0.0, 0.8]), stopping=stopping,
                             cache={"bypass_prefix_cache": source.random() < 0.3})
        call = stream(server, message)
        read = source.randrange(12) if seed % 3 == 0 else math.inf
        try:
            for number, _ in enumerate(call):
                if number >= read:
                    call.cancel()
            outcome = "OK"
        except grpc.RpcError as error:
            outcome = error.code().name
        with lock:
            outcomes.append(outcome)

    seeds = [random_source.randrange(1 << 30) * 3 + (0 if i % 3 == 0 else 1) for i in range(200)]
    groups = [threading.Thread(target=lambda part: [one(seed) for seed in part], args=(seeds[i::16],)) for i in range(16)]
    for group in groups:
        group.start()
    for group in groups:
        group.join()
    assert len(outcomes) == 200 and set(outcomes) <= {"OK", "CANCELLED"}
    assert outcomes.count("CANCELLED") >= 40
    server.wait_idle()

    def grew(name, **labels):
        return after.sum(name, **labels) - before.sum(name, **labels)

    after = wait_until(lambda: m if (m := server.metrics()).sum("requests_total") - before.sum("requests_total") >= 200
                       else None, "200 ends")
    assert grew("requests_total") == grew("request_duration_seconds_count") == 200
    # A client may cancel what the server has already finished.
    assert grew("requests_total", code="OK") >= outcomes.count("OK")
    assert grew("requests_total", code="OK") + grew("requests_total", code="CANCELLED") == 200
    assert after.sum("kv_pages_free") == before.sum("kv_pages_free")
    assert after.sum("requests_running") == after.sum("requests_waiting") == 0
