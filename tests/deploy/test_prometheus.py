"""A real Prometheus scrapes a real server under load: each recording rule and each of the dashboard's queries has values, and
they are true."""

import math
import threading
import time

import grpc
import pytest

from dashboard import queries
from prometheus_process import Prometheus
from prometheus_rules import ALERTS, RECORDING, rules
from requests_made import generate, generation, refused, together
from server_process import Server, wait_until

RECORDS = sorted({rule["record"] for rule in rules(RECORDING)})
PHASES = {"prefill", "decode"}
# Of what load there is here: (least, most).
SHARE = (0, 1)
POSITIVE = (1e-9, math.inf)
BOUNDS = {
    "job:tauserve_goodput_requests:ratio_rate5m": (1, 1),  # what was asked wrongly does not count
    "job:tauserve_prefix_cache_hit_tokens:ratio_rate5m": (0.01, 0.99),
    "job:tauserve_attention_block_sparsity:ratio_rate5m": SHARE,
    "job:tauserve_attention_page_skip:ratio_rate5m": SHARE,
    "job:tauserve_attention_key_sparsity:ratio_rate5m": (0.01, 0.999),
    "job:tauserve_attention_support_tokens:mean5m": (1, 400),
    "job:tauserve_attention_visible_tokens:mean5m": (10, 400),
    "job:tauserve_attention_tau_iterations:mean5m": (0.01, 15),
}


class Load:
    """Keeps a server busy from a thread of its own: three prompts of 200 to 350 tokens at once, one of which it knows."""

    def __init__(self, server):
        self.server = server
        self.slowest = 0.0
        self.error = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        try:
            turn = 0
            while not self._stop.is_set():
                prompts = [[0] + [300 + (i * 7 + seed) % 900 for i in range(tokens)]
                           for seed, tokens in ((0, 200), (turn * 2 + 1, 250), (turn * 2 + 2, 350))]
                start = time.monotonic()
                together(self.server, [generation(p, max_new_tokens=12, stopping={"ignore_eos": True}) for p in prompts])
                self.slowest = max(self.slowest, time.monotonic() - start)
                turn += 1
        except Exception as error:  # for the test's thread, which asks for it
            self.error = error

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()


@pytest.fixture(scope="module")
def server():
    with Server() as running:
        yield running


@pytest.fixture(scope="module")
def prometheus(server, tmp_path_factory):
    """After some load, scraped from before it until it has ended."""
    with Prometheus(server.serving["metrics"], tmp_path_factory.mktemp("prometheus")) as running:
        wait_until(lambda: running.values("up") == [1] and running.query("tauserve_build_info"), "the first scrape")
        with Load(server) as load:
            wait_until(lambda: load.error or all(all_finite(running, record) for record in RECORDS),
                       "a value of every recording rule")
            assert load.error is None
            refused(lambda: generate(server, ""), grpc.StatusCode.INVALID_ARGUMENT)
        assert load.error is None
        running.slowest_call = load.slowest
        server.wait_idle()
        # Scraped once more, now that nothing moves, and then evaluated.
        wait_until(lambda: running.values("tauserve_requests_total{code='INVALID_ARGUMENT'}") == [1]
                   and running.values("tauserve_requests_running") == [0], "a scrape after the load")
        scraped = time.time()
        wait_until(lambda: all(evaluated > scraped for record in RECORDS
                               for evaluated in running.values(f"timestamp({record})")), "an evaluation after it")
        yield running


def all_finite(prometheus, expr):
    values = prometheus.values(expr)
    return values and all(map(math.isfinite, values))


def test_one_target_is_scraped_without_error(prometheus, server):
    (target,) = prometheus.api("targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    assert target["labels"] == {"instance": server.serving["metrics"], "job": "tauserve"}


def test_all_rules_are_evaluated_without_error(prometheus):
    groups = prometheus.api("rules")["groups"]
    evaluated = [rule for group in groups for rule in group["rules"]]
    assert len(evaluated) == len(rules(RECORDING)) + len(rules(ALERTS))
    assert [rule for rule in evaluated if rule["health"] != "ok" or rule.get("lastError")] == []


def test_no_alert_fires(prometheus):
    assert [alert for alert in prometheus.api("alerts")["alerts"] if alert["state"] == "firing"] == []


@pytest.mark.parametrize("record", RECORDS)
def test_recording_rule(prometheus, record):
    samples = prometheus.query(record)
    assert all(labels["job"] == "tauserve" and labels["model_name"] == "recall-9m" for labels, _ in samples)
    if "_bucket:" in record:
        assert max(value for _, value in samples) > 0
        return
    low, high = BOUNDS.get(record, POSITIVE)
    # A rate is extrapolated, so a ratio of two may miss 1 by rounding.
    assert all(low - 1e-9 <= value <= high + 1e-9 for _, value in samples), samples
    phases = [labels.get("phase") for labels, _ in samples]
    assert sorted(phases) == sorted(PHASES) if "attention" in record else phases == [None]


@pytest.mark.parametrize("name", ["time_to_first_token_seconds", "inter_token_latency_seconds"])
def test_percentiles_are_in_order_and_no_longer_than_calls_were(prometheus, name):
    p50, p95, p99 = (prometheus.values(f"job:tauserve_{name}:p{p}_5m")[0] for p in (50, 95, 99))
    assert 0 < p50 <= p95 <= p99
    # A percentile is at most the upper bound of its bucket.
    bounds = [float(labels["le"]) for labels, _ in prometheus.query(f"job:tauserve_{name}_bucket:rate5m")]
    assert p99 <= min(bound for bound in bounds if bound >= prometheus.slowest_call)


def test_a_row_attends_to_some_of_what_it_sees(prometheus):
    for phase in PHASES:
        (support,) = prometheus.values(f"job:tauserve_attention_support_tokens:mean5m{{phase='{phase}'}}")
        (visible,) = prometheus.values(f"job:tauserve_attention_visible_tokens:mean5m{{phase='{phase}'}}")
        (sparsity,) = prometheus.values(f"job:tauserve_attention_key_sparsity:ratio_rate5m{{phase='{phase}'}}")
        assert support / visible == pytest.approx(1 - sparsity, rel=1e-3)


def test_counters_are_the_server_s(prometheus, server):
    metrics = server.metrics()
    for name in ("prompt_tokens_total", "generation_tokens_total", "requests_total", "engine_steps_total",
                 "attention_keys_support_total", "time_to_first_token_seconds_count"):
        (value,) = prometheus.values(f"sum(tauserve_{name})")
        assert value == metrics.sum(name) > 0, name


@pytest.mark.parametrize("expr", [expr for _, expr in queries()], ids=[title for title, _ in queries()])
def test_panel_has_data(prometheus, expr):
    assert any(map(math.isfinite, prometheus.values(expr)))
