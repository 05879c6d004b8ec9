"""`cmake --install` gives others what they need: the example is built with it, outside of the project, and calls a server."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))

from requests_made import STORY, generate  # noqa: E402
from server_process import Server  # noqa: E402


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_client_is_found_and_works(tmp_path):
    prefix, build = tmp_path / "prefix", tmp_path / "build"
    run("cmake", "--install", os.environ["TAUSERVE_BUILD_DIR"], "--prefix", prefix, "--component", "client")
    assert "--goodput" in run(prefix / "bin" / "tauserve-bench", "--help")
    run("cmake", "-S", ROOT / "clients" / "cpp" / "example", "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}")
    run("cmake", "--build", build)
    # No header of the project's own tree stands in.
    commands = run("cmake", "--build", build, "--target", "tell", "--clean-first", "--verbose")
    assert str(prefix / "include") in commands and f"-I{ROOT}" not in commands
    with Server() as server:
        told = run(build / "tell", server.serving["grpc"], STORY)
        answer = generate(server, max_new_tokens=40)
        text = answer.candidates[0].text
        assert told == f"{STORY}{text}\n[{answer.usage.completion_tokens} tokens]\n"


def test_the_programs_run_where_they_are_installed(tmp_path):
    run("cmake", "--install", os.environ["TAUSERVE_BUILD_DIR"], "--prefix", tmp_path, "--component", "server")
    names = {path.name for path in (tmp_path / "bin").iterdir()}
    assert {"tauserve", "tauserve-cli", "libtauserve_sentencepiece.so"} <= names
    assert "--target_step_time" in run(tmp_path / "bin" / "tauserve", "--help")
