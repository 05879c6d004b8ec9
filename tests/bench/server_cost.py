"""How much of the wall time goes to anything but the model's steps, with many streams of the embedded model; prints one JSON
object.

  TAUSERVE_BIN_DIR=build/release/bin .venv/bin/python tests/bench/server_cost.py [--streams=32] [--tokens=400]

`engine`: shares of the engine thread's time, from tauserve_engine_seconds_total, while all streams decode; what is not the
model's makes the streams wait (goal: at most 0.05 together). `other_threads`: CPU time of the threads that are neither the
engine's nor the kernels' (gRPC, workers, metrics), over the wall time of all cores: these run beside the model's steps, and
take cores from them. `client`: the CPU time of this process, which reads the streams and takes cores as well.
"""

import argparse
import json
import os
import pathlib
import sys
import threading
import time

import grpc

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))

from requests_made import long_generation, read_until, stream  # noqa: E402
from server_process import Server  # noqa: E402

OURS = ("tau-engine", "tau-kernels")


def cpu_seconds(pid):
    """CPU time by thread name."""
    ticks = os.sysconf("SC_CLK_TCK")
    by_name = {}
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        try:
            name, fields = (task / "stat").read_text().split("(", 1)[1].rsplit(")", 1)
        except FileNotFoundError:
            continue
        values = fields.split()
        by_name[name] = by_name.get(name, 0) + (int(values[11]) + int(values[12])) / ticks
    return by_name


def snapshot(server):
    metrics = server.metrics()
    phases = {labels["phase"]: value for name, labels, value in metrics.samples
              if name == "tauserve_engine_seconds_total"}
    return {"time": time.monotonic(), "phases": phases, "cpu": cpu_seconds(server.process.pid),
            "tokens": metrics.sum("generation_tokens_total"), "client": time.process_time()}


def read(call):
    try:
        for _ in call:
            pass
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.CANCELLED, error


def measure(server, streams, tokens):
    calls = [stream(server, long_generation(max_new_tokens=tokens)) for _ in range(streams)]
    for call in calls:
        read_until(call, "delta")
    threads = [threading.Thread(target=read, args=(call,)) for call in calls]
    before = snapshot(server)
    for thread in threads:
        thread.start()
    # While all of them run: the first ends after `tokens`.
    goal = before["tokens"] + streams * (tokens * 3 // 4)
    while server.metrics().sum("generation_tokens_total") < goal:
        time.sleep(0.2)
    after = snapshot(server)
    for call in calls:
        call.cancel()
    for thread in threads:
        thread.join()
    wall = after["time"] - before["time"]
    cores = len(os.sched_getaffinity(server.process.pid))
    spent = {phase: after["phases"][phase] - before["phases"][phase] for phase in after["phases"]}
    total = sum(spent.values())
    engine = {phase: round(seconds / total, 4) for phase, seconds in spent.items()}
    others = sum(seconds - before["cpu"].get(name, 0) for name, seconds in after["cpu"].items() if name not in OURS)
    return {"streams": streams, "wall_seconds": round(wall, 2), "tokens_per_second": round((after["tokens"] - before["tokens"]) / wall),
            "engine": engine, "engine_outside_model": round(1 - engine["model"] - engine["wait"], 4), "goal": 0.05,
            "other_threads": round(others / wall / cores, 4),
            "client": round((after["client"] - before["client"]) / wall / cores, 4), "cores": cores}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=400)
    arguments = parser.parse_args()
    with Server() as server:
        print(json.dumps(measure(server, arguments.streams, arguments.tokens), indent=1))


if __name__ == "__main__":
    main()
