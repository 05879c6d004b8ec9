"""The command-line client, run as a program against a real server."""

import json
import os
import pathlib
import signal
import subprocess

import pytest

from protos import ROOT
from server_process import PATIENCE, Server, wait_until

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


def test_text_is_the_same_streamed_or_not(idle):
    shown = [cli(idle, "generate", STORY, "--temperature=0", "--max_new_tokens=8", flag) for flag in
             ("--stream", "--no-stream")]
    assert shown[0].stdout == shown[1].stdout
    # What is no terminal gets no bar unless it asks for one.
    assert "prefill [" not in shown[0].stderr


def test_prompt_from_every_place(idle, tmp_path):
    file = tmp_path / "story.txt"
    file.write_text(STORY)
    ids = json.loads(cli(idle, "tokenize", STORY, "--json").stdout)["token_ids"]
    greedy = ["--temperature=0", "--max_new_tokens=4"]
    expected = cli(idle, "generate", STORY, *greedy).stdout
    assert cli(idle, "generate", f"--file={file}", *greedy).stdout == expected
    assert cli(idle, "generate", "--token_ids=" + ",".join(map(str, ids)), *greedy).stdout == expected
    assert cli(idle, "generate", *greedy, stdin=STORY).stdout == expected


def test_stop_strings_may_hold_commas(idle):
    whole = cli(idle, "generate", STORY, "--temperature=0", "--max_new_tokens=12").stdout
    assert " out" in whole
    done = cli(idle, "generate", STORY, "--temperature=0", "--max_new_tokens=12", "--stop=never, ever",
               "--stop", " out", "--json")
    answer = json.loads(done.stdout)
    assert (answer["finish_reason"], answer["stop_string"]) == ("stop_string", " out")
    assert answer["text"] == whole[:whole.index(" out")]


def test_bad_words_and_truncation(idle):
    done = cli(idle, "generate", STORY, "--temperature=0", "--max_new_tokens=12", "--bad_word=out", "--bad_word", "was")
    assert done.returncode == 0 and " out" not in done.stdout and " was" not in done.stdout
    sides = [cli(idle, "generate", STORY, "--temperature=0", "--max_new_tokens=4", "--truncate_prompt_tokens=9",
                 f"--truncation_side={side}", "--json") for side in ("left", "right")]
    answers = [json.loads(side.stdout) for side in sides]
    assert [a["usage"]["prompt_tokens"] for a in answers] == [9, 9] and answers[0]["text"] != answers[1]["text"]
    assert cli(idle, "generate", STORY, "--truncation_side=up").returncode == 2


def test_candidates(idle):
    args = ["generate", STORY, "--temperature=1", "--seed=3", "--max_new_tokens=12", "--num_candidates=3"]
    done = cli(idle, *args, "--json", "--top_prompt_logprobs=1", "--return_token_ids")
    answer = json.loads(done.stdout)
    assert [c["index"] for c in answer["candidates"]] == [0, 1, 2]
    assert answer["text"] == answer["candidates"][0]["text"] and all(c["finish_reason"] for c in answer["candidates"])
    assert answer["usage"]["completion_tokens"] == sum(len(c["token_ids"]) for c in answer["candidates"])
    assert len(answer["prompt_logprobs"]) == 17 and "logprob" not in answer["prompt_logprobs"][0]
    shown = cli(idle, *args, "--stream").stdout
    assert shown == "".join(f"--- candidate {c['index']} ---\n{c['text']}\n" for c in answer["candidates"])


def test_known_answer_decides_the_exit_code(idle):
    right = cli(idle, "generate", f"--prompts={PROMPTS}", "--prompt_id=2k-0", "--temperature=0")
    assert (right.returncode, right.stdout) == (0, " 0031\n")
    assert "expected     0031: given" in right.stderr
    cut = cli(idle, "generate", f"--prompts={PROMPTS}", "--prompt_id=0", "--temperature=0", "--max_new_tokens=1")
    assert cut.returncode == 1 and "0031: NOT given" in cut.stderr


def test_known_answer_in_json(idle):
    done = cli(idle, "generate", f"--prompts={PROMPTS}", "--prompt_id=2k-1", "--temperature=0", "--json")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["matches"], answer["prompt_id"]) == (0, True, "2k-1")
    attention = answer["attention"]
    assert attention["prefill_blocks_skipped_share"] == pytest.approx(
        1 - attention["prefill_blocks_attended"] / attention["prefill_blocks_considered"])
    assert answer["timings"]["prefill_tokens_per_second"] > 0


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
    assert json.loads(cli(idle, "health", "--service=", "--json").stdout) == {"status": "SERVING"}
    assert cli(idle, "health", "--service=other").returncode == 1


def test_addresses_from_the_environment(idle):
    binary = command(idle, "info")[0]
    environment = dict(os.environ, TAUSERVE_SERVER=idle.serving["grpc"], TAUSERVE_CONTROL=idle.serving["control"])
    done = subprocess.run([binary, "info"], env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert "device" in json.loads(done.stdout)


def test_drained_server_is_not_serving():
    with Server() as server:
        assert cli(server, "drain", "--drain_timeout=1s").stdout == "aborted 0 requests\n"
        assert json.loads(cli(server, "load").stdout)["draining"] is True
        health = cli(server, "health")
        assert (health.returncode, health.stdout) == (1, "NOT_SERVING\n")
        assert cli(server, "health", "--service=").returncode == 0
        refused = cli(server, "generate", STORY)
        assert refused.returncode == 3 and "UNAVAILABLE" in refused.stderr


def test_errors_are_one_line_with_the_status(idle):
    done = cli(idle, "generate", STORY, "--temperature=-1")
    assert done.returncode == 1
    assert done.stderr.startswith("tauserve-cli: INVALID_ARGUMENT: temperature is -1")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("args", [[], ["dance"], ["generate", "a", "b"], ["generate", "--file=/nonexistent"],
                                  ["generate", "--file=/"], ["generate", "--prompts=/nonexistent"],
                                  ["generate", "a", "--tempratur=1"], ["generate", "a", "--temperature=hot"],
                                  ["load", "--temperature=1"], ["detokenize", "x"], ["abort"]])
def test_usage_errors(idle, args):
    done = cli(idle, *args)
    assert done.returncode == 2 and done.stderr.startswith("tauserve-cli: ")
    assert done.stdout == "" and len(done.stderr.splitlines()) == 1


def test_no_server():
    cli_path = pathlib.Path(os.environ["TAUSERVE_BIN_DIR"]) / "tauserve-cli"
    done = subprocess.run([str(cli_path), "generate", "x", "--server=127.0.0.1:1"], capture_output=True, text=True,
                          timeout=PATIENCE)
    assert done.returncode == 3 and "UNAVAILABLE" in done.stderr


def test_interrupt_cancels(idle):
    process = subprocess.Popen(command(idle, "generate", STORY, "--max_new_tokens=20000", "--ignore_eos", "--stream"),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.read(1)  # the request runs, and the client knows what it began with
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and b"CANCELLED" in stderr
    assert b"cut off" in stderr and b"17 prompt tokens read" in stderr


def test_deadline_shows_how_far_it_got(idle):
    done = cli(idle, "generate", STORY, "--max_new_tokens=20000", "--ignore_eos", "--timeout=300ms", "--json")
    assert done.returncode == 1 and "DEADLINE_EXCEEDED" in done.stderr
    answer = json.loads(done.stdout)
    assert answer["error"]["status"] == "DEADLINE_EXCEEDED"
    assert answer["progress"]["elapsed_seconds"] >= 0.3


def test_time_limit_is_no_error(idle):
    done = cli(idle, "generate", STORY, "--max_new_tokens=20000", "--ignore_eos", "--time_limit=300ms", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["finish_reason"] == "time_limit"


def test_abort_ends_a_request_politely(idle):
    process = subprocess.Popen(command(idle, "generate", STORY, "--max_new_tokens=20000", "--ignore_eos", "--json",
                                       "--request_id=victim"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_until(lambda: idle.load().running_requests == 1, "the request to run")
    assert cli(idle, "abort", "victim").stdout == "victim\n"
    stdout, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0 and json.loads(stdout)["finish_reason"] == "aborted"
