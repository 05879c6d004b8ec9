"""The metrics port's page in a real browser: it draws what the metrics say, and takes nothing from elsewhere. With
TAUSERVE_SCREENSHOT=FILE.png the picture is kept."""

import os
import pathlib
import re
import shutil
import subprocess
import threading

from requests_made import long_generation, read_until, stream
from server_process import Server

SECONDS = 14  # of the page's time, which passes faster than ours: seven scrapes


def browse(address, folder, *what):
    """Chromium's answer after the page has lived for a while."""
    chromium = shutil.which("chromium")
    assert chromium, "deploy/setup.sh installs it"
    command = [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
               "--window-size=1500,1000", f"--user-data-dir={folder}", f"--virtual-time-budget={SECONDS * 1000}",
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
    assert re.search(r'<span id="state"[^>]*>live</span>', page), page[-4000:]
    assert "recall-9m (LlamaForCausalLM, α 1.5, 9.4M parameters) on cpu" in page
    shown = {name: value for name, value in re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", page)}
    assert shown["running"] == "4" and shown["waiting"] == "0"
    assert float(shown["generated"]) > 0
    for name in ("decode step", "in use", "decode", "a row, decode", "pages, decode", "steps to τ, decode", "in the model"):
        assert re.match(r"\d", shown[name]), (name, shown[name])
    assert shown["rows not converged"] == shown["logits not finite"] == "0"
    # Curves of several scrapes.
    curves = re.findall(r'<polyline[^>]* points="([^"]*)"', page)
    assert max(len(points.split()) for points in curves) >= 3


def drain(call):
    try:
        for _ in call:
            pass
    except Exception:  # cancelled
        pass
