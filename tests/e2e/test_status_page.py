"""The metrics port's page in a real browser: it draws what the metrics say, and takes nothing from elsewhere. With
TAUSERVE_SCREENSHOT=FILE.png the picture is kept; TAUSERVE_SCREENSHOT_SIZE=WIDTH,HEIGHT is the window's."""

import http.server
import os
import pathlib
import re
import shutil
import subprocess
import threading
import urllib.request

import pytest

from requests_made import long_generation, read_until, stream
from server_process import Server

SECONDS = 14  # of the page's time, which passes faster than ours: seven scrapes


def browse(address, folder, *what):
    """Chromium's answer after the page has lived for a while."""
    chromium = shutil.which("chromium")
    assert chromium, "deploy/setup.sh installs it"
    command = [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
               f"--window-size={os.environ.get('TAUSERVE_SCREENSHOT_SIZE', '1500,1000')}", f"--user-data-dir={folder}", f"--virtual-time-budget={SECONDS * 1000}",
               "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", *what, f"http://{address}/"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_shows_what_the_metrics_say(tmp_path):
    with Server() as server:
        calls = [stream(server, long_generation()) for _ in range(4)]
        for call in calls:
            read_until(call, "delta")
        readers = [threading.Thread(target=drain, args=(call,)) for call in calls]
        for reader in readers:
            reader.start()
        picture = pathlib.Path(os.environ.get("TAUSERVE_SCREENSHOT", tmp_path / "page.png"))
        shots = threading.Thread(target=browse, args=(server.serving["metrics"], tmp_path / "a", f"--screenshot={picture}"))
        shots.start()
        page = browse(server.serving["metrics"], tmp_path / "b", "--dump-dom")
        shots.join()
        for call in calls:
            call.cancel()
        for reader in readers:
            reader.join()
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert re.search(r"live, (started \d+ s ago|up \d+ )", state_of(page)), page[-4000:]
    assert "recall-9m (LlamaForCausalLM, α 1.5, 9.4M parameters) on cpu" in page
    shown = numbers_of(page)
    assert shown["running"] == "4" and shown["waiting"] == "0"
    assert float(shown["a second"]) > 0
    for name in ("decode step, mean", "in use", "decode", "keys a row, decode", "pages, decode",
                 "pages without weight", "τ steps, decode", "in the model", "CPU cores", "memory"):
        assert re.match(r"\d", shown[name]), (name, shown[name])
    for name in ("rows not converged, since start", "logits not finite, since start", "calls a second", "internal, since start"):
        assert shown[name] == "0"
    # Curves of several scrapes.
    assert max(len(re.findall("[ML]", path)) for path in re.findall(r'<path[^>]* d="([^"]*)"', page)) >= 3


def state_of(page):
    return re.search(r'<span id="state"[^>]*>([^<]*)</span>', page)[1]


def numbers_of(page):
    return {name: value for name, value in re.findall(r"<dt[^>]*>([^<]*)</dt><dd[^>]*>([^<]*)</dd>", page)}


class Replay(http.server.BaseHTTPRequestHandler):
    """Serves a page, and one answer after the other, None for a failure, under /metrics."""

    page = ""
    answers = []

    def do_GET(self):
        body = self.page
        if self.path == "/metrics":
            body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.send_response(503 if body is None else 200)
        self.send_header("Content-Type", "text/html" if self.path == "/" else "text/plain")
        self.end_headers()
        self.wfile.write((body or "").encode())

    def log_message(self, *_):
        pass


def browse_replay(tmp_path, page, answers):
    handler = type("Handler", (Replay,), {"page": page, "answers": list(answers)})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as replay:
        thread = threading.Thread(target=replay.serve_forever)
        thread.start()
        try:
            return browse(f"127.0.0.1:{replay.server_port}", tmp_path, "--dump-dom")
        finally:
            replay.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def served():
    """The page, and a scrape."""
    with Server() as server:
        with urllib.request.urlopen(f"http://{server.serving['metrics']}/") as response:
            return response.read().decode(), server.scrape()


def with_value(scrape, name, value):
    changed, count = re.subn(rf"^({name}(?:{{[^}}]*}})?) .*$", rf"\1 {value}", scrape, flags=re.M)
    assert count == 1
    return changed


def test_a_restart_gives_no_negative_rates(served, tmp_path):
    page, scrape = served
    old = [with_value(scrape, "tauserve_generation_tokens_total", n) for n in (5000, 6000, 7000)]
    new = with_value(scrape, "process_start_time_seconds", 2_000_000_000)  # its clock is ahead of ours
    new = [with_value(new, "tauserve_generation_tokens_total", n) for n in (10, 40, 40)]
    page = browse_replay(tmp_path, page, old + new)
    assert state_of(page) == "live, started 0 s ago"
    assert re.match(r"\d", numbers_of(page)["a second"])
    assert not re.search(r">-\d", page)
    curves = " ".join(re.findall(r'<path[^>]* d="([^"]*)"', page))
    assert max(float(y) for y in re.findall(r",([\d.]+)", curves)) <= 100  # below is under the axis


def test_who_does_not_answer_is_told_with_the_age_of_the_values(served, tmp_path):
    page, scrape = served
    page = browse_replay(tmp_path, page, [scrape, scrape, None])
    assert re.fullmatch(r"no answer: values are \d+ s old", state_of(page))
    assert '<body class="old">' in page and "<title>⚠ Tauserve: recall-9m</title>" in page
    assert numbers_of(page)["running"] == "0"  # what was known last


@pytest.mark.parametrize("name, words", [("engine_stuck", "engine stuck: it has work and does not move"),
                                         ("draining", "draining: new requests are refused")])
def test_states_that_matter_are_said(served, tmp_path, name, words):
    page, scrape = served
    assert state_of(browse_replay(tmp_path, page, [with_value(scrape, f"tauserve_{name}", 1)])) == words


def drain(call):
    try:
        for _ in call:
            pass
    except Exception:  # cancelled
        pass
