"""The command-line client, run as a program against a real server."""

import json
import os
import pathlib
import signal
import subprocess

import pytest

from protos import ROOT
from server_process import PATIENCE, wait_until

PROMPTS = ROOT / "models" / "prompts" / "recall-2k.jsonl"
STORY = "Once upon a time, there was a little fox named Mira. One day,"


def command(server, *args):
    cli = pathlib.Path(os.environ["TAUSERVE_BIN_DIR"]) / "tauserve-cli"
    return [str(cli), *args, f"--server={server.serving['grpc']}", f"--control={server.serving['control']}"]


def cli(server, *args, stdin=""):
    return subprocess.run(command(server, *args), input=stdin, capture_output=True, text=True, timeout=PATIENCE)


def test_generate_shows_text_and_statistics(idle):
    done = cli(idle, "generate", STORY, "--temperature=0", "--max_new_tokens=8", "--progress")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(" Mira was out")
    for part in ("prefill [", "first token", "keys a row", "of blocks skipped"):
        assert part in done.stderr


def test_generate_json_is_all_there_is(idle):
    done = cli(idle, "generate", "--json", "--temperature=0", "--max_new_tokens=4", "--return_token_ids",
               "--top_logprobs=2", stdin=STORY)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["token_ids"] == [1582, 291, 721, 387]
    assert answer["finish_reason"] == "max_new_tokens"
    assert len(answer["logprobs"]) == 4 and len(answer["logprobs"][0]["top"]) == 2
    assert answer["usage"]["prompt_tokens"] == 17
    assert answer["attention"]["keys_considered"] > 0


def test_known_answer_decides_the_exit_code(idle):
    right = cli(idle, "generate", f"--prompts={PROMPTS}", "--prompt_id=2k-0", "--temperature=0")
    assert right.returncode == 0 and "0031: given" in right.stdout
    cut = cli(idle, "generate", f"--prompts={PROMPTS}", "--prompt_id=2k-0", "--temperature=0", "--max_new_tokens=1")
    assert cut.returncode == 1 and "NOT given" in cut.stdout


def test_tokenize_and_back(idle):
    done = cli(idle, "tokenize", "--json", "a little fox")
    ids = json.loads(done.stdout)["token_ids"]
    assert ids[0] == 0 and done.returncode == 0
    back = cli(idle, "detokenize", *map(str, ids))
    assert back.stdout == "a little fox\n"


def test_info_load_health(idle):
    info = json.loads(cli(idle, "info").stdout)
    assert info["model"] == "recall-9m" and info["entmax_alpha"] == [1.5, 1.5] and "device" in info
    assert json.loads(cli(idle, "load").stdout)["draining"] is False
    health = cli(idle, "health", "--wait=5s")
    assert (health.returncode, health.stdout) == (0, "SERVING\n")


def test_errors_are_one_line_with_the_status(idle):
    done = cli(idle, "generate", STORY, "--temperature=-1")
    assert done.returncode == 1
    assert done.stderr.startswith("tauserve-cli: INVALID_ARGUMENT: temperature is -1")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("args", [[], ["dance"], ["generate", "a", "b"], ["generate", "--file=/nonexistent"],
                                  ["generate", "--prompts=/nonexistent"], ["detokenize", "x"]])
def test_usage_errors(idle, args):
    done = cli(idle, *args)
    assert done.returncode == 2 and done.stderr.startswith("tauserve-cli: ")


def test_no_server():
    cli_path = pathlib.Path(os.environ["TAUSERVE_BIN_DIR"]) / "tauserve-cli"
    done = subprocess.run([str(cli_path), "generate", "x", "--server=127.0.0.1:1"], capture_output=True, text=True,
                          timeout=PATIENCE)
    assert done.returncode == 3 and "UNAVAILABLE" in done.stderr


def test_interrupt_cancels(idle):
    process = subprocess.Popen(command(idle, "generate", STORY, "--max_new_tokens=20000", "--ignore_eos", "--stream"),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_until(lambda: idle.load().running_requests == 1, "the request to run")
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and b"CANCELLED" in stderr


def test_abort_ends_a_request_politely(idle):
    process = subprocess.Popen(command(idle, "generate", STORY, "--max_new_tokens=20000", "--ignore_eos", "--json",
                                       "--request_id=victim"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_until(lambda: idle.load().running_requests == 1, "the request to run")
    assert cli(idle, "abort", "victim").stdout == "victim\n"
    stdout, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0 and json.loads(stdout)["finish_reason"] == "aborted"
