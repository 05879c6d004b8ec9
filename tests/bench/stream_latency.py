"""What others do to the time between a stream's tokens, on the server and the embedded model; prints one JSON object.

  TAUSERVE_BIN_DIR=build/release/bin .venv/bin/python tests/bench/stream_latency.py [--streams=8] [--tokens=1500]

`slow_reader`: 99th percentile of the time between tokens of streams that are read, beside one that asks for much and is not
read at all, over the same without it (goal: at most 1.2). `long_prefill`: the same percentile while a prompt of 64k tokens
runs, over the server's target for a step (goal: at most 1.5), and the time to the first token of a prompt of 100 tokens that
comes meanwhile.
"""

import argparse
import json
import pathlib
import statistics
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))

from recall import cases  # noqa: E402
from requests_made import generation, long_generation, read_until, stream  # noqa: E402
from server_process import Server  # noqa: E402

TARGET = 0.2  # --target_step_time's default
HOUR = 3600


class Reader(threading.Thread):
    """Reads a stream to its end, or until it is told to stop, and notes when tokens came."""

    def __init__(self, server, message):
        super().__init__()
        self.call = stream(server, message, timeout=HOUR)
        self.times = []

    def run(self):
        try:
            for event in self.call:
                if event.WhichOneof("event") == "delta":
                    self.times.append(time.monotonic())
        except Exception:  # cancelled
            pass

    def gaps(self, begin=0.0, end=float("inf")):
        return [b - a for a, b in zip(self.times, self.times[1:]) if begin <= a and b <= end]


def percentile(values, share):
    return statistics.quantiles(values, n=1000, method="inclusive")[round(share * 1000) - 1]


def p99_of_readers(server, streams, tokens):
    readers = [Reader(server, long_generation(max_new_tokens=tokens)) for _ in range(streams)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    return percentile([gap for reader in readers for gap in reader.gaps()], 0.99)


def slow_reader(server, streams, tokens, rounds=3):
    without, beside = [], []
    for _ in range(rounds):
        # As many sequences in the batch either way: the other one is read, too.
        other = Reader(server, long_generation(max_new_tokens=100000, response={"top_logprobs": 20}))
        other.start()
        without.append(p99_of_readers(server, streams, tokens))
        other.call.cancel()
        other.join()
        server.wait_idle()
        unread = stream(server, long_generation(max_new_tokens=100000, response={"top_logprobs": 20}), timeout=HOUR)
        beside.append(p99_of_readers(server, streams, tokens))
        unread.cancel()
        server.wait_idle()
    return {"p99_ms_without": 1000 * min(without), "p99_ms_beside": 1000 * min(beside),
            "ratio": min(beside) / min(without), "goal": 1.2}


def long_prefill(server, streams):
    readers = [Reader(server, long_generation(max_new_tokens=100000)) for _ in range(streams)]
    for reader in readers:
        reader.start()
    while any(len(reader.times) < 20 for reader in readers):
        time.sleep(0.05)
    alone = percentile([gap for reader in readers for gap in reader.gaps()], 0.99)
    text = cases("64k")[0]["prompt"]
    begin = time.monotonic()
    prompt = stream(server, generation(text, max_new_tokens=4, cache={"bypass_prefix_cache": True}), timeout=HOUR)
    read_until(prompt, "prefill_progress")
    firsts = []
    for number in range(5):
        short = generation(list(range(100 + number, 200 + number)), max_new_tokens=1)
        asked = time.monotonic()
        read_until(stream(server, short), "delta")
        firsts.append(time.monotonic() - asked)
    read_until(prompt, "delta")
    end = time.monotonic()
    for reader in readers:
        reader.call.cancel()
        reader.join()
    during = [gap for reader in readers for gap in reader.gaps(begin, end)]
    p99 = percentile(during, 0.99)
    return {"p99_ms_alone": 1000 * alone, "p99_ms_during": 1000 * p99, "max_ms_during": 1000 * max(during),
            "over_target": p99 / TARGET, "goal": 1.5, "prefill_seconds": end - begin,
            "first_token_ms_of_100_tokens": [round(1000 * first, 1) for first in firsts]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=1500)
    arguments = parser.parse_args()
    with Server() as server:
        result = {"slow_reader": slow_reader(server, arguments.streams, arguments.tokens),
                  "long_prefill": long_prefill(server, arguments.streams)}
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
