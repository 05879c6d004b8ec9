"""`tauserve-cli top` as its user sees it: on a terminal, and elsewhere."""

import json
import math
import os
import pathlib
import re
import signal
import subprocess
import threading
import time

import pytest

from requests_made import generate, long_generation, read_until, stream
from server_process import PATIENCE, Server, wait_until
from terminal_program import TerminalProgram

INTERVALS = 5  # that the screen's rates are of


def command(address, *args):
    cli = pathlib.Path(os.environ["TAUSERVE_BIN_DIR"]) / "tauserve-cli"
    return [str(cli), "top", f"--metrics={address}", *args]


def run(address, *args):
    return subprocess.run(command(address, *args), capture_output=True, text=True, timeout=PATIENCE)


@pytest.fixture(scope="module")
def busy():
    """Two requests run, three wait, for as long as the module's tests take."""
    with Server("--max_running_requests=2") as server:
        calls = [stream(server, long_generation(100_000), timeout=3600) for _ in range(2)]
        for call in calls:
            read_until(call, "delta")
        calls += [stream(server, long_generation(100_000), timeout=3600) for _ in range(3)]
        readers = [threading.Thread(target=drain, args=(call,)) for call in calls]
        for reader in readers:
            reader.start()
        wait_until(lambda: server.load().waiting_requests == 3, "three requests in the queue")
        yield server
        for call in calls:
            call.cancel()
        for reader in readers:
            reader.join()


def drain(call):
    try:
        for _ in call:
            pass
    except Exception:  # cancelled
        pass


def figure(top, title, label):
    """The number before `label` in the row of this title, as the screen shows it; None: not there, or not known."""
    row = next((line for line in top.lines() if line.startswith(title)), "")
    found = re.search(rf"([\d.]+)(k| ms| s| %| MB| GB)? {re.escape(label)}(?:  |$)", row)
    if not found:
        return None
    scale = {"k": 1e3, " ms": 1e-3, " s": 1, " %": 1e-2, " MB": 1e6, " GB": 1e9, None: 1}[found[2]]
    return float(found[1]) * scale


class Window:
    """What /metrics says of as many seconds as the screen shows."""

    def __init__(self, server):
        self.server = server
        self.scrapes = []

    def look(self):
        if not self.scrapes or time.monotonic() - self.scrapes[-1][0] >= 1:
            self.scrapes = self.scrapes[-INTERVALS:] + [(time.monotonic(), self.server.metrics())]
        return len(self.scrapes) > INTERVALS

    def increase(self, name, **labels):
        return self.scrapes[-1][1].sum(name, **labels) - self.scrapes[0][1].sum(name, **labels)

    def rate(self, name, **labels):
        return self.increase(name, **labels) / (self.scrapes[-1][0] - self.scrapes[0][0])

    def bucket_of_quantile(self, q, name):
        """The bounds between which it lies."""
        bounds = sorted({labels["le"] for n, labels, _ in self.scrapes[-1][1].samples if n == f"tauserve_{name}_bucket"},
                        key=float)
        total = self.increase(f"{name}_count")
        upper = next(i for i, le in enumerate(bounds) if self.increase(f"{name}_bucket", le=le) >= q * total)
        return (float(bounds[upper - 1]) if upper else 0.0), float(bounds[upper])


def test_the_screen_agrees_with_the_metrics(busy):
    window = Window(busy)
    with TerminalProgram(command(busy.serving["metrics"]), columns=140) as top:
        top.wait_for("2 running")
        top.wait_for("3 waiting")
        top.wait_for("recall-9m (LlamaForCausalLM, α 1.5) on cpu")
        assert figure(top, "Queue", "tokens") == busy.metrics().sum("waiting_prompt_tokens") > 0

        agreed = set()

        def close(name, shown, is_right):
            if shown is not None and is_right(shown):
                agreed.add(name)

        def near(expected):
            return lambda shown: math.isclose(shown, expected, rel_tol=0.2)

        def all_agree():
            # Each at some moment: the screen and this test look at moments of their own.
            if not window.look():
                return False
            close("tokens", figure(top, "Decode", "tokens/s"), near(window.rate("generation_tokens_total")))
            close("steps", figure(top, "Decode", "steps/s"), near(window.rate("engine_steps_total")))
            low, high = window.bucket_of_quantile(0.5, "inter_token_latency_seconds")
            close("p50", figure(top, "Next token", "p50"), lambda shown: low * 0.99 <= shown <= high * 1.01)
            close("support", figure(top, "Keys a row", "decode"), near(
                window.increase("attention_support_tokens_sum", phase="decode")
                / window.increase("attention_support_tokens_count", phase="decode")))
            close("skipped", figure(top, "Skipped", "of decode"), near(
                1 - window.increase("attention_decode_blocks_computed_total")
                / window.increase("attention_decode_blocks_considered_total")))
            close("free", figure(top, "KV cache", "free pages"), near(window.scrapes[-1][1].sum("kv_pages_free")))
            close("model", figure(top, "Engine", "in model"), near(
                window.increase("engine_seconds_total", phase="model") / window.increase("engine_seconds_total")))
            return len(agreed) == 7

        try:
            wait_until(all_agree, "figures that agree")
        except AssertionError:
            raise AssertionError(f"only {agreed} agreed:\n{top.text()}")
        assert figure(top, "τ steps", "unsolved") == figure(top, "Failed calls", "failed/s") == 0
        # Curves: of what runs always as much, the highest block; what never was, the lowest.
        wait_until(lambda: re.search(r"ended/s +█{3,} to 2$", next(line for line in top.lines() if line.startswith("Requests"))),
                   "a curve of the requests that run")


def test_it_fits_the_window_when_that_changes(busy):
    with TerminalProgram(command(busy.serving["metrics"]), columns=140, rows=30) as top:
        top.wait_for("q: quit")
        top.wait_for(" to 2")
        top.resize(72, 10)
        wait_until(lambda: "q: quit" not in top.text() and " to 2" not in top.text(), "a smaller screen")
        top.wait_for("2 running")
        assert len([line for line in top.lines() if line]) == 9  # one of them is a gap
        top.resize(20, 3)
        wait_until(lambda: [len(line) for line in top.lines()][2:] == [0], "a tiny one")
        top.resize(200, 50)
        top.wait_for("q: quit")
        top.wait_for(" to 2")


def end_by_key(key):
    return lambda top: top.type(key)


@pytest.mark.parametrize("end, code", [(end_by_key("q"), 0), (end_by_key("Q"), 0), (end_by_key("\x04"), 0),
                                       (end_by_key("\x03"), 130), (lambda top: top.process.send_signal(signal.SIGTERM), 143),
                                       (lambda top: top.process.send_signal(signal.SIGHUP), 129)],
                         ids=["q", "Q", "ctrl-d", "ctrl-c", "term", "hup"])
def test_every_end_restores_the_terminal(busy, end, code):
    with TerminalProgram(command(busy.serving["metrics"])) as top:
        top.wait_for("2 running")
        assert not top.restored()
        top.type("x")  # means nothing
        end(top)
        assert top.wait() == code
        assert top.restored()
        assert top.process.stderr.read() == b""


def test_ctrl_z_gives_the_terminal_back_and_fg_takes_it(busy):
    with TerminalProgram(command(busy.serving["metrics"])) as top:
        top.wait_for("2 running")
        top.type("\x1a")
        wait_until(lambda: pathlib.Path(f"/proc/{top.process.pid}/stat").read_text().split(") ")[1][0] == "T", "the stop")
        wait_until(top.restored, "the terminal as it was")
        top.process.send_signal(signal.SIGCONT)
        wait_until(lambda: not top.restored(), "the screen again")
        top.wait_for("2 running")
        top.type("q")
        assert top.wait() == 0 and top.restored()


def test_a_server_that_is_killed_and_comes_back():
    with Server() as server:
        server.expected_code = -signal.SIGKILL
        generate(server, max_new_tokens=200, stopping={"ignore_eos": True})
        with TerminalProgram(command(server.serving["metrics"], "--interval=200ms"), columns=160) as top:
            top.wait_for("0 running")
            server.process.kill()
            top.wait_for("NO ANSWER, figures are ")
            top.wait_for("/metrics: no connection")
            top.wait_for("0 running")  # the last values stay
            first_age = re.search(r"figures are (\d+) s old", top.text())[1]
            wait_until(lambda: int(re.search(r"figures are (\d+) s old", top.text())[1]) > int(first_age), "the age to grow")
            with Server(f"--metrics_listen={server.serving['metrics']}") as again:
                top.wait_for("STARTED ")
                assert "NO ANSWER" not in top.text()
                # Counters began at 0 again, and are fewer than they were.
                call = stream(again, long_generation())
                reader = threading.Thread(target=drain, args=(call,))
                reader.start()
                top.wait_for("1 running")
                wait_until(lambda: (figure(top, "Decode", "tokens/s") or 0) > 0, "tokens of the new server")
                assert not re.search(r" -\d", top.text())
                call.cancel()
                reader.join()
            top.type("q")
            assert top.wait() == 0 and top.restored()


def test_a_server_that_hangs_does_not_hang_the_keyboard(busy):
    with Server() as server, TerminalProgram(command(server.serving["metrics"])) as top:
        top.wait_for("0 running")
        server.signal(signal.SIGSTOP)
        try:
            top.wait_for("no HTTP answer in time")
            top.type("q")
            assert top.wait() == 0 and top.restored()
        finally:
            server.signal(signal.SIGCONT)


def test_lines_of_json_add_up_to_the_counters():
    with Server() as server:
        process = subprocess.Popen(command(server.serving["metrics"], "--json", "--interval=100ms"), stdout=subprocess.PIPE,
                                   text=True)
        lines = [json.loads(process.stdout.readline())]
        assert lines[0]["model"] == "recall-9m" and lines[0]["requests_running"] == 0
        assert lines[0]["decode_tokens_per_second"] == 0 and lines[0]["inter_token_latency_seconds_p50"] is None
        generate(server, list(range(400, 700)), max_new_tokens=50, stopping={"ignore_eos": True})
        metrics = server.metrics()

        def total(name):
            return sum(line[name] * line["interval_seconds"] for line in lines)

        end = time.monotonic() + PATIENCE
        while total("requests_ended_per_second") < 0.5 or total("decode_tokens_per_second") < 49.5:
            assert time.monotonic() < end, lines
            lines.append(json.loads(process.stdout.readline()))
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=PATIENCE) == 130
        process.stdout.close()
        assert total("decode_tokens_per_second") == pytest.approx(metrics.sum("generation_tokens_total")) == 50
        assert total("prefill_tokens_per_second") == pytest.approx(metrics.sum("prefill_tokens_total")) == 300
        assert any(line["time_to_first_token_seconds_p95"] for line in lines)


def test_once_is_plain_text_for_one_interval(busy):
    done = run(busy.serving["metrics"], "--once", "--interval=300ms")
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 running" in done.stdout and "3 waiting" in done.stdout and "\x1b" not in done.stdout
    assert re.search(r"^Decode +[\d.]+ tokens/s", done.stdout, re.M)
    answer = json.loads(run(busy.serving["metrics"], "--once", "--json").stdout)
    assert answer["requests_running"] == 2 and answer["decode_tokens_per_second"] > 0
    assert answer["stuck"] is answer["draining"] is False


def test_where_there_is_no_terminal_text_follows_text(busy):
    process = subprocess.Popen(command(busy.serving["metrics"], "--interval=100ms"), stdout=subprocess.PIPE, text=True)
    blocks = [[], [], []]
    for block in blocks:
        while (line := process.stdout.readline()) != "\n":
            assert line, "it ended"
            block.append(line)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=PATIENCE) == 143
    process.stdout.close()
    assert all(block[0].startswith("recall-9m (") and len(block) == len(blocks[0]) for block in blocks)


@pytest.mark.parametrize("locale, term", [("C", "xterm"), ("C.UTF-8", "dumb")])
def test_terminals_that_know_less(busy, locale, term):
    with TerminalProgram(command(busy.serving["metrics"], "--interval=100ms"), columns=140, TERM=term, LC_ALL=locale) as top:
        top.wait_for("2 running")
        if term == "dumb":  # as if it was a file
            assert b"\x1b" not in top.seen
        else:
            top.wait_for("##### to 2")
            assert "alpha 1.5" in top.text() and top.text().isascii()


def test_addresses_that_are_wrong(busy):
    done = run("127.0.0.1:1")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "tauserve-cli: UNAVAILABLE: http://127.0.0.1:1/metrics: no connection\n"
    done = run(busy.serving["grpc"])
    assert done.returncode == 3 and "/metrics: " in done.stderr and len(done.stderr.splitlines()) == 1
    for args in (["nowhere"], ["127.0.0.1:0"], [busy.serving["metrics"], "--interval=1ms"],
                 [busy.serving["metrics"], "--interval=2h"], [busy.serving["metrics"], "more"]):
        done = run(*args)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, args
