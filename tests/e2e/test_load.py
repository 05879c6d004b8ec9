"""Many streams from several processes at once, which finish, cancel, let deadlines pass, don't read, or are killed: every
call is counted once and as its client saw it, every answer is the one given alone, and nothing is left afterwards.

By hand at full size, with 64 streams of prompts of up to 32,000 tokens, a minute for each of three rounds:
  TAUSERVE_BIN_DIR=build/release/bin TAUSERVE_LOAD_SECONDS=60 TAUSERVE_LOAD_LONGEST=32000 \\
    .venv/bin/python -m pytest -s tests/e2e/test_load.py
"""

import collections
import contextlib
import json
import os
import pathlib
import queue
import random
import subprocess
import sys
import threading
import time

import pytest

from protos import inference
from recall import cases
from requests_made import generation, stream, tokens_of
from server_process import PATIENCE, Server, wait_until

SANITIZED = bool(os.environ.get("TAUSERVE_SANITIZER"))
SECONDS = float(os.environ.get("TAUSERVE_LOAD_SECONDS", 3))
LONGEST = int(os.environ.get("TAUSERVE_LOAD_LONGEST", 400 if SANITIZED else 6400))
STREAMS = int(os.environ.get("TAUSERVE_LOAD_STREAMS", 64))
ROUNDS = 3
STAYING, KILLED_A_ROUND = 3, 2  # processes; each has as many streams
MAX_NEW_TOKENS = 12


class Client:
    """A process of load_client.py; its lines come through a queue."""

    def __init__(self, folder, plan):
        file = folder / f"{plan['name']}.json"
        file.write_text(json.dumps(plan))
        script = pathlib.Path(__file__).with_name("load_client.py")
        self.process = subprocess.Popen([sys.executable, str(script), str(file)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        self.lines = queue.Queue()
        self.calls = []
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            said = json.loads(line)
            if said["event"] in ("ready", "done"):
                self.lines.put(said["event"])
            else:
                self.calls.append(said)

    def wait_for(self, event, patience=PATIENCE):
        assert self.lines.get(timeout=patience) == event

    def go(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def kill(self):
        self.process.kill()
        self.finish()

    def finish(self):
        self.process.stdin.close()
        self.process.wait(timeout=PATIENCE)
        self.reader.join()
        self.process.stdout.close()


def answers(server):
    """Prompts of doubling length, cut from a long text, with what the server says to each alone."""
    text = inference.TokenizeRequest(text=cases("64k")[0]["prompt"])
    ids = list(server.stub.Tokenize(text, timeout=PATIENCE).token_ids)
    lengths = [32]
    while 2 * lengths[-1] <= LONGEST:
        lengths.append(2 * lengths[-1])
    prompts = []
    for number, length in enumerate(lengths + [LONGEST]):
        start = 1000 * number
        prompt = {"ids": ids[start:start + length]}
        message = generation(prompt["ids"], max_new_tokens=MAX_NEW_TOKENS, stopping={"ignore_eos": True},
                             response={"token_ids": True})
        prompt["answer"] = tokens_of(stream(server, message))
        assert len(prompt["answer"]) == MAX_NEW_TOKENS
        prompts.append(prompt)
    return prompts


# Of gRPC's pools, which grow and shrink with the load within bounds of their own.
POOLS = ("default-executo", "event_engine", "grpc_global_tim", "grpcpp_sync_ser", "nexting_thread", "resolver-execut",
         "timer_manager")
MOST_POOLED = 32


class Footprint:
    """What the server's process holds."""

    def __init__(self, server):
        folder = pathlib.Path(f"/proc/{server.process.pid}")
        self.descriptors = len(list((folder / "fd").iterdir()))
        status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
        names = []
        for task in (folder / "task").iterdir():
            with contextlib.suppress(FileNotFoundError):  # ended meanwhile
                names.append((task / "comm").read_text().strip())
        self.pooled = sum(name in POOLS for name in names)
        self.threads = len(names) - self.pooled
        self.resident = int(status["VmRSS"].split()[0]) << 10

    def __str__(self):
        return f"{self.descriptors} descriptors, {self.threads} threads and {self.pooled} of gRPC's pools, {self.resident >> 20} MiB"


# The server's code for a call that ended so at its client; a client that gave up may have done so before the call was sent,
# while it was answered, or after.
POSSIBLE = {
    "OK": {"OK"},
    "CANCELLED": {"CANCELLED", "OK", None},
    "DEADLINE_EXCEEDED": {"DEADLINE_EXCEEDED", "CANCELLED", "OK", None},
    "killed": {"CANCELLED", "OK", "DEADLINE_EXCEEDED", None},
}


def check_accounts(server, calls, alone):
    """Each call of a client against the server's log, and the log against the metrics."""
    ends = {}
    for call in calls:
        ends.setdefault(call["id"], "killed")
        if call["event"] == "end":
            ends[call["id"]] = call["code"]
    logged = collections.Counter()
    by_id, nameless = {}, 0
    for line in server.events("request_end"):
        logged[line["code"]] += 1
        if line["request_id"] in ends:
            assert line["request_id"] not in by_id, f"ended twice: {line}"
            by_id[line["request_id"]] = line["code"]
        elif line["request_id"] == "":
            assert line["code"] == "CANCELLED", json.dumps(line)  # before the message was parsed
            nameless += 1
    seen = collections.Counter()
    unmatched = 0
    for request_id, code in ends.items():
        of_server = by_id.get(request_id)
        seen[code, of_server] += 1
        # What the server itself refuses, it calls by the same name.
        assert of_server in POSSIBLE.get(code, {code}), (request_id, code, of_server)
        unmatched += of_server is None
    assert nameless <= unmatched
    assert sum(logged.values()) == alone + len(by_id) + nameless
    metrics = server.metrics()
    for code, count in logged.items():
        assert metrics.sum("requests_total", code=code) == count, code
    assert metrics.sum("requests_total") == sum(logged.values())
    assert metrics.sum("nonfinite_logits_total") == 0
    return seen


def test_everything_at_once(tmp_path):
    seed = random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}")
    dice = random.Random(seed)
    # The cache holds the longest prompt and a few others, so that requests wait for pages and are preempted.
    kv_cache_bytes = max(96 << 20, LONGEST * 20000)
    with Server(f"--kv_cache_bytes={kv_cache_bytes}", "--max_running_requests=40") as server:
        prompts = answers(server)
        server.wait_idle()
        free = server.metrics().sum("kv_pages_free")
        plan = {"address": server.serving["grpc"], "seconds": SECONDS, "seed": seed, "prompts": prompts,
                "max_new_tokens": MAX_NEW_TOKENS, "streams": STREAMS // (STAYING + KILLED_A_ROUND)}
        odd = STREAMS % (STAYING + KILLED_A_ROUND)
        staying = [Client(tmp_path, dict(plan, name=f"s{n}", streams=plan["streams"] + (n < odd)))
                   for n in range(STAYING)]
        doomed = [Client(tmp_path, dict(plan, name=f"k{n}")) for n in range(ROUNDS * KILLED_A_ROUND)]
        for client in staying + doomed:
            client.wait_for("ready")
        footprints = []
        for number in range(ROUNDS):
            killed = doomed[number * KILLED_A_ROUND:(number + 1) * KILLED_A_ROUND]
            begin = time.monotonic()
            for client in staying + killed:
                client.go()
            for client, moment in zip(killed, sorted(dice.uniform(0.1, 0.9) * SECONDS for _ in killed)):
                with pytest.raises(queue.Empty):  # it has not ended before it is killed
                    client.lines.get(timeout=max(0.01, begin + moment - time.monotonic()))
                client.kill()
            for client in staying:
                client.wait_for("done", PATIENCE + SECONDS)
            server.wait_idle()
            assert server.metrics().sum("kv_pages_free") == free
            # Connections of the killed take a moment to be noticed.
            wait_until(lambda: settled(server), "the clients' connections to be closed")
            if footprints:
                first = footprints[0]
                wait_until(lambda: Footprint(server).descriptors <= first.descriptors, "descriptors to be closed")
                wait_until(lambda: Footprint(server).threads <= first.threads, "threads to end")
            footprints.append(Footprint(server))
            assert footprints[-1].pooled <= MOST_POOLED, str(footprints[-1])
            print(f"round {number}: {time.monotonic() - begin:.1f} s, {footprints[-1]}")
        for client in staying:
            client.finish()
        calls = [call for client in staying + doomed for call in client.calls]
        seen = check_accounts(server, calls, alone=len(prompts))
        print(f"{sum(seen.values())} calls (client's code, server's code): {dict(seen)}")
        wrong = [call for call in calls if call["event"] == "end" and not call["right"]]
        assert not wrong, wrong[:10]
        assert {code for code, _ in seen} >= {"OK", "CANCELLED", "DEADLINE_EXCEEDED", "killed"}
        if not SANITIZED:  # whose own memory grows
            assert footprints[-1].resident < 1.05 * footprints[0].resident + (8 << 20), [str(f) for f in footprints]


def settled(server):
    """No connection but the test's own: the inference, control and metrics ports' listeners stay."""
    connections = pathlib.Path(f"/proc/{server.process.pid}/net/tcp").read_text().splitlines()[1:]
    port = int(server.serving["grpc"].rsplit(":", 1)[1])
    established = "01"
    local = [line.split() for line in connections]
    return sum(int(f[1].split(":")[1], 16) == port and f[3] == established for f in local) <= 1
