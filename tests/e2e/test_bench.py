"""The load generator, run as a program against a real server, whose own counters have to agree with its report."""

import hashlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

from certificates import Authority
from protos import ROOT, inference
from server_process import PATIENCE, Server, wait_until

PROMPTS = ROOT / "models" / "prompts" / "recall-2k.jsonl"
PLOT = ROOT / "clients" / "cpp" / "bench" / "plot.py"


def command(server, *args):
    program = pathlib.Path(os.environ["TAUSERVE_BIN_DIR"]) / "tauserve-bench"
    return [str(program), f"--server={server.serving['grpc']}", *args]


def bench(server, *args):
    return subprocess.run(command(server, *args), capture_output=True, text=True, timeout=PATIENCE)


def report(server, file, *args):
    """The JSON report of a run that ended well."""
    done = bench(server, *args, f"--json={file}", f"--metrics={server.serving['metrics']}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""  # no terminal, no progress
    # But for names of files and messages, it fits a terminal.
    lines = [line for line in done.stdout.splitlines() if "/tmp" not in line and "such as" not in line]
    assert all(len(line) <= 80 for line in lines), done.stdout
    return json.loads(file.read_text())


def counted(run, name):
    return sum(value for sample, value in run["server_counters"].items()
               if re.match(rf"tauserve_{name}(\{{|$)", sample))


def test_the_server_counts_the_same(idle, tmp_path):
    before = idle.metrics()
    run = report(idle, tmp_path / "run.json", "--num_requests=12", "--max_concurrency=4",
                 "--prompt_tokens=uniform:20:60", "--output_tokens=lognormal:8:4", "--records", "--goodput=e2e:1h")
    summary, requests = run["summary"], run["requests"]
    assert summary["ok"] == summary["good"] == len(requests) == 12 and summary["failures"] == {}
    assert counted(run, "requests_total") == 12
    assert counted(run, "prompt_tokens_total") == summary["prompt_tokens"] == sum(r["prompt_tokens"] for r in requests)
    assert summary["output_tokens"] == sum(r["output_tokens"] for r in requests)
    assert summary["finish_reasons"] == {"max_new_tokens": 12}
    assert len({r["prompt_tokens"] for r in requests}) > 1 and len({r["output_tokens"] for r in requests}) > 1
    # A step is counted after its tokens are on their way, so the last one's may be missed by who looks at once.
    attention = summary["attention"]
    assert attention["keys_considered"] > 0
    for name, value in (("generation_tokens_total", summary["output_tokens"]),
                        ("attention_keys_considered_total", attention["keys_considered"]),
                        ("attention_kv_pages_read_total", attention["kv_pages_read"])):
        wait_until(lambda: idle.metrics().sum(name) - before.sum(name) == value, f"{name} to be counted")
        assert 0 <= value - counted(run, name) <= value / 2
    assert run["server_counters"]["process_cpu_seconds_total"] > 0 and run["client"]["cpu_seconds"] > 0
    for request in requests:
        # The server sees less of a request than its client.
        assert request["end"] - request["intended"] >= request["server_seconds"]["total"]
        assert sum(request["gaps"]) <= request["end"] - request["first_token"] + 1e-3


def test_open_loop_with_ramp_limit_and_shared_prefixes(idle, tmp_path):
    ramp = ["--ramp=20:60:2", "--num_requests=12", "--burstiness=0.5", "--prompt_tokens=8", "--prefix_tokens=256",
            "--output_tokens=4", "--records", "--seed=3"]
    run = report(idle, tmp_path / "run.json", *ramp, "--max_concurrency=6", "--warmup_requests=1")
    assert run["settings"]["loop"] == "open" and run["summary"]["ok"] == 12
    # All pages of the prefix come from what the warm-up left.
    assert run["summary"]["cached_prompt_tokens"] == 12 * 256
    assert sum(window["summary"]["requests"] for window in run["windows"]) <= 12
    intended = [r["intended"] for r in sorted(run["requests"], key=lambda r: r["index"])]
    assert intended == sorted(intended)
    again = report(idle, tmp_path / "again.json", *ramp)
    assert intended == [r["intended"] for r in sorted(again["requests"], key=lambda r: r["index"])]


def test_prompts_of_a_file_and_of_a_text(idle, tmp_path):
    texts = [json.loads(line)["prompt"][:300] for line in PROMPTS.read_text().splitlines()[:2]]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("\n".join(json.dumps({"prompt": text, "max_new_tokens": n + 1}) for n, text in enumerate(texts)))
    run = report(idle, tmp_path / "run.json", f"--prompts={prompts}", "--num_requests=4", "--temperature=0")
    tokens = [idle.stub.Tokenize(inference.TokenizeRequest(text=text), timeout=PATIENCE).count for text in texts]
    assert run["summary"]["prompt_tokens"] == 2 * sum(tokens)
    assert run["summary"]["output_tokens"] == 2 * (1 + 2)
    text = tmp_path / "text.txt"
    text.write_text(texts[0])
    run = report(idle, tmp_path / "run.json", f"--text={text}", "--prompt_tokens=50", "--num_requests=3",
                 "--output_tokens=2")
    assert run["summary"]["prompt_tokens"] == 150


def test_refusals_are_counted(tmp_path):
    with Server("--max_running_requests=1", "--max_waiting_requests=1") as server:
        run = report(server, tmp_path / "run.json", "--rate=1000", "--num_requests=10", "--prompt_tokens=16",
                     "--output_tokens=64")
        refused = run["summary"]["failures"]["RESOURCE_EXHAUSTED"]["count"]
        assert refused > 0 and run["summary"]["ok"] + refused == 10
        assert counted(run, "admission_rejections_total") == refused


def test_a_killed_server_ends_the_run():
    with Server() as server:
        process = subprocess.Popen(command(server, "--duration=10m", "--output_tokens=500", "--max_concurrency=3"),
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_until(lambda: server.load().running_requests == 3, "requests to run")
        server.process.kill()
        server.expected_code = -signal.SIGKILL
        stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 3 and stderr == ""
    assert "UNAVAILABLE" in stdout and "20 requests in a row found no server" in stdout


def test_interrupt_reports_what_was_measured(idle, tmp_path):
    file = tmp_path / "run.json"
    load = ["--duration=10m", "--prompt_tokens=16", "--output_tokens=20", "--max_concurrency=2"]
    process = subprocess.Popen(command(idle, *load, f"--json={file}"), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True)
    before = idle.metrics().sum("requests_total", code="OK")
    wait_until(lambda: idle.metrics().sum("requests_total", code="OK") > before + 2, "requests to end")
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and stderr == ""
    run = json.loads(file.read_text())
    assert run["ended_early"] and run["summary"]["ok"] >= 3 and run["summary"]["failures"] == {}
    assert "time to first token" in stdout and "interrupted" in stdout


def test_wrong_usage_and_no_server(idle):
    for args, why in [(["--rate=0"], "--rate is 0"), (["--prompt_tokens=999999"], "the model's context of"),
                      (["--prompts=/nonexistent"], "/nonexistent: cannot be opened"),
                      (["--fast"], "unknown flag --fast")]:
        done = bench(idle, *args)
        assert (done.returncode, done.stdout) == (2, "") and why in done.stderr and len(done.stderr.splitlines()) == 1
    done = bench(idle, "--server=127.0.0.1:1")
    assert done.returncode == 3 and done.stderr.startswith("tauserve-bench: UNAVAILABLE: ")


def test_tls_and_token(tmp_path):
    authority = Authority(tmp_path)
    cert, key = authority.sign("server")
    tokens, secret = tmp_path / "tokens", tmp_path / "secret"
    tokens.write_text(f"{hashlib.sha256(b'open-sesame').hexdigest()} inference\n")
    secret.write_text("open-sesame\n")
    with Server(f"--tls_cert={cert}", f"--tls_key={key}", f"--auth_tokens_file={tokens}") as server:
        short = ["--num_requests=2", "--prompt_tokens=16", "--output_tokens=2", f"--tls_ca={authority.cert}"]
        run = report(server, tmp_path / "run.json", *short, f"--token_file={secret}", "--connections=2")
        assert run["summary"]["ok"] == 2
        done = bench(server, *short)
        assert done.returncode == 1 and done.stderr.startswith("tauserve-bench: UNAUTHENTICATED: ")


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_plot(idle, tmp_path, suffix):
    files = [tmp_path / f"users{users}.json" for users in (1, 2)]
    for users, file in zip((1, 2), files):
        report(idle, file, f"--max_concurrency={users}", "--num_requests=4", "--prompt_tokens=16", "--output_tokens=4",
               "--goodput=ttft:1h")
    figure = tmp_path / f"figure.{suffix}"
    subprocess.run([sys.executable, str(PLOT), *map(str, files), f"--out={figure}"], check=True, timeout=PATIENCE)
    if suffix == "png":
        assert figure.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        return
    text = figure.read_text()
    for part in ("1 users", "2 users", "time between tokens, p50", "time to first token, p99", "goodput",
                 "users of the closed loop", "recall-9m: 8 requests"):
        assert part in text, part


def test_plot_refuses_other_files(tmp_path):
    other = tmp_path / "other.json"
    other.write_text("{}")
    for args in ([str(other), "--out=x.svg"], [str(tmp_path / "none"), "--out=x.svg"], [str(other), "--out=x.pdf"]):
        done = subprocess.run([sys.executable, str(PLOT), *args], capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode != 0 and "plot.py: " in done.stderr and "Traceback" not in done.stderr
