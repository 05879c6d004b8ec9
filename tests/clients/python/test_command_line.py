"""python -m tauserve."""

import fcntl
import json
import os
import pathlib
import pty
import signal
import socket
import struct
import subprocess
import termios

import pytest
from command_line import run, words
from requests_made import STORY
from server_process import MODEL, PATIENCE, wait_until

GREEDY = ("--temperature=0", "--max_new_tokens=8")


@pytest.fixture
def ask(server):
    yield lambda *args, **options: run(*args, server=server, **options)
    server.wait_idle()


def test_text_progress_and_statistics(ask):
    done = ask("generate", STORY, *GREEDY, "--stream", "--progress")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(" Mira was out") and done.stdout.endswith("\n")
    for part in ("prefill: 100%", "17/17", "first token", "keys a row", "of blocks skipped"):
        assert part in done.stderr
    quiet = ask("generate", STORY, *GREEDY, "--no-stats")
    assert quiet.stdout == done.stdout and quiet.stderr == ""


def test_json_is_tauserve_clis(server, ask):
    flags = ["generate", STORY, *GREEDY, "--json", "--return_token_ids", "--top_logprobs=2", "--top_prompt_logprobs=0",
             "--stop= was", "--request_id=same", "--bypass_prefix_cache"]
    done = ask(*flags)
    assert done.returncode == 0, done.stderr
    cli = pathlib.Path(os.environ["TAUSERVE_BIN_DIR"]) / "tauserve-cli"
    theirs = subprocess.run([cli, *flags, f"--server={server.serving['grpc']}"], capture_output=True, check=True, timeout=PATIENCE)
    answer, expected = json.loads(done.stdout), json.loads(theirs.stdout)
    assert keys(answer) == keys(expected)
    for name in ("text", "token_ids", "finish_reason", "stop_string", "usage"):
        assert answer[name] == expected[name]
    assert answer["logprobs"][0]["logprob"] == pytest.approx(expected["logprobs"][0]["logprob"])


def keys(value):
    if isinstance(value, dict):
        return {name: keys(part) for name, part in value.items()}
    return [keys(part) for part in value] if isinstance(value, list) else None


def test_prompts_from_every_place(ask, tmp_path):
    file = tmp_path / "story.txt"
    file.write_text(STORY)
    expected = ask("generate", STORY, *GREEDY).stdout
    ids = json.loads(ask("tokenize", STORY, "--json").stdout)["token_ids"]
    assert ask("generate", f"--file={file}", *GREEDY).stdout == expected
    assert ask("generate", *GREEDY, stdin=STORY).stdout == expected
    assert ask("generate", "--token_ids=" + ",".join(map(str, ids)), *GREEDY).stdout == expected
    assert ask("detokenize", *ids).stdout == STORY + "\n"
    assert ask("tokenize", "Hi", "--no-add_special_tokens").stdout == "   3784  Hi\n"


def test_candidates_and_constraints(ask):
    several = ask("generate", STORY, "--seed=1", "--num_candidates=2", "--max_new_tokens=4")
    assert several.stdout.count("--- candidate") == 2
    assert ask("generate", STORY, *GREEDY, r"--regex=(good|bad)\.").stdout in ("good.\n", "bad.\n")
    schema = '{"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}'
    assert json.loads(ask("generate", STORY, f"--json_schema={schema}").stdout) == {"a": 1}
    assert ask("generate", STORY, *GREEDY, "--json_object").stdout.startswith("{")


def test_chats(ask, tmp_path):
    written = ask("chat", "Who?", "--system=Brief.", *GREEDY, "--json")
    assert written.returncode == 0, written.stderr
    file = tmp_path / "template.jinja"
    file.write_text("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n")
    rendered = ask("chat", "Who?", "--system=Brief.", *GREEDY, "--json", f"--chat_template={file}")
    assert json.loads(rendered.stdout)["usage"]["prompt_tokens"] > 10
    none = ask("chat", "Who?", f"--chat_template={MODEL}")
    assert none.returncode == 1 and "the model has none" in none.stderr
    absent = ask("chat", "Who?", f"--chat_template={tmp_path / 'absent'}")
    assert absent.returncode == 2 and "absent" in absent.stderr


def test_info_and_load(server, ask):
    assert "recall-9m" in ask("info").stdout
    whole = json.loads(ask("info", "--json", f"--control={server.serving['control']}").stdout)
    assert whole["entmax_alpha_min"] == 1.5 and whole["device"] and whole["default_sampling"]["top_p"] == 1
    load = ask("load", "--json", environment={"TAUSERVE_CONTROL": server.serving["control"]})
    assert json.loads(load.stdout)["draining"] is False


def test_exit_codes(ask):
    refused = ask("generate", STORY, "--temperature=-1")
    assert (refused.returncode, refused.stdout) == (1, "") and refused.stderr.startswith("tauserve: INVALID_ARGUMENT: temp")
    as_json = ask("info", "--model=other", "--json")
    assert as_json.returncode == 1 and json.loads(as_json.stdout)["error"]["status"] == "NOT_FOUND"
    late = ask("generate", STORY, "--max_new_tokens=20000", "--ignore_eos", "--timeout=0.5", "--json")
    assert late.returncode == 1
    answer = json.loads(late.stdout)
    assert answer["error"]["status"] == "DEADLINE_EXCEEDED" and answer["progress"]["prompt_tokens"] == 17
    for wrong in (["generate", STORY, "--temperature=hot"], ["generate", STORY, "--tempe=1"], ["sing"],
                  ["generate", STORY, "--file=also"], ["generate", STORY, "--token_ids=1"],
                  ["generate", "--file=/nowhere"], ["generate", STORY, "--regex=a", "--json_object"]):
        assert ask(*wrong).returncode == 2


def test_no_server():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))

        class Nobody:
            serving = {"grpc": f"127.0.0.1:{free.getsockname()[1]}"}

        done = run("info", server=Nobody)
    assert done.returncode == 3 and done.stderr.startswith("tauserve: UNAVAILABLE")


def test_interrupted(server):
    process = subprocess.Popen(words(server, "generate", STORY, "--max_new_tokens=20000", "--ignore_eos"),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: server.load().running_requests == 1, "the request to run")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1 and errors == "tauserve: CANCELLED: interrupted\n"
    server.wait_idle()


def test_on_a_terminal(server):
    """Text and bar without being asked for."""
    outside, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = subprocess.Popen(words(server, "generate", STORY, *GREEDY), stdin=subprocess.DEVNULL, stdout=inside, stderr=inside)
    os.close(inside)
    shown = b""
    try:
        while part := os.read(outside, 4096):
            shown += part
    except OSError:  # the other side is closed
        pass
    os.close(outside)
    assert process.wait(PATIENCE) == 0
    assert b"prefill: 100%" in shown and b" Mira was out" in shown and b"keys a row" in shown
