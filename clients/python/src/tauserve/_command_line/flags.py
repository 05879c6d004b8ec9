"""The commands and their flags. A flag that is a field of GenerationOptions has its name, and is None if not given."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import Any

from tauserve._command_line.failure import EXIT_CODES, UsageError
from tauserve.connection import Credentials
from tauserve.options import GenerationOptions, JsonObject, JsonSchema, Regex, StructuredOutput

_NUMBERS: dict[str, tuple[type, str]] = {
    "temperature": (float, "0: greedy"),
    "top_k": (int, "0: off"),
    "top_p": (float, "in (0, 1]"),
    "min_p": (float, "in [0, 1]"),
    "typical_p": (float, "in (0, 1]"),
    "repetition_penalty": (float, "1: off"),
    "presence_penalty": (float, "0: off"),
    "frequency_penalty": (float, "0: off"),
    "seed": (int, "same seed, same tokens"),
    "num_candidates": (int, "so many continuations, shown one after the other at the end"),
    "max_new_tokens": (int, "most tokens to generate"),
    "min_new_tokens": (int, "fewest tokens to generate"),
    "time_limit": (float, "end, with what there is, after so many seconds"),
    "top_logprobs": (int, "with --json: log-probabilities and so many alternatives"),
    "top_prompt_logprobs": (int, "the same of the prompt's tokens"),
    "truncate_prompt_tokens": (int, "keep only so many tokens of the prompt"),
    "priority": (int, "lower is served earlier; a unit counts as 10 s of waiting"),
}
_SWITCHES = {
    "include_stop_in_output": "show the stop text or token as well",
    "ignore_eos": "go on after the model's end token",
    "bypass_prefix_cache": "neither use nor leave cached pages",
    "skip_special_tokens": "leave special tokens out of the text",
}
_TEXTS = {
    "request_id": "name of the request; else the server makes one",
    "salt": "share cached pages only with requests of the same salt",
}


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m tauserve", description="Asks a Tauserve server.", epilog=EXIT_CODES, allow_abbrev=False
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    generate = _command(commands, "generate", "generate from the argument, --file, --token_ids or standard input")
    generate.add_argument("prompt", nargs="?")
    _file_flag(generate)
    generate.add_argument("--token_ids", type=_ids, help="prompt as token ids, separated by commas")
    _generation_flags(generate)

    chat = _command(commands, "chat", "ask as a chat: the argument, --file or standard input")
    chat.add_argument("prompt", nargs="?", metavar="question")
    _file_flag(chat)
    chat.add_argument("--system", help="the chat's system message")
    chat.add_argument(
        "--chat_template",
        metavar="FILE",
        help="render the chat here, with a Jinja template or that of a model's folder or tokenizer_config.json",
    )
    _generation_flags(chat)

    tokenize = _command(commands, "tokenize", "ids and spellings of the tokens of a text")
    tokenize.add_argument("prompt", nargs="?", metavar="text")
    _file_flag(tokenize)
    _switch(tokenize, "add_special_tokens", "add the tokenizer's special tokens, such as <bos>", default=True)

    detokenize = _command(commands, "detokenize", "the text of token ids")
    detokenize.add_argument("ids", nargs="+", type=int, metavar="ID")
    _switch(detokenize, "skip_special_tokens", _SWITCHES["skip_special_tokens"], default=True)

    _command(commands, "info", "the model; with --control, the server as well")
    _command(commands, "load", "requests, queue and cache (control service)")
    return top


def credentials(args: argparse.Namespace) -> Credentials:
    def named(flag: str) -> str | None:
        value: str | None = getattr(args, flag)
        return value or os.environ.get(f"TAUSERVE_{flag.upper()}") or None

    try:
        read = Credentials.from_files(
            tls_ca=named("tls_ca"),
            tls_cert=named("tls_cert"),
            tls_key=named("tls_key"),
            tls_server_name=named("tls_server_name"),
            token_file=args.token_file,
        )
        token = os.environ.get("TAUSERVE_TOKEN", "").strip()
        return dataclasses.replace(read, token=token) if token and read.token is None else read
    except (OSError, ValueError) as failure:
        raise UsageError(str(failure)) from failure


def generation_options(args: argparse.Namespace) -> GenerationOptions:
    given = {name: getattr(args, name) for name in (*_NUMBERS, *_SWITCHES)}
    return GenerationOptions(
        **given,
        request_id=args.request_id or "",
        model=args.model,
        salt=args.salt or "",
        truncation_side=args.truncation_side,
        stop_strings=args.stop,
        bad_words=args.bad_word,
        stop_token_ids=args.stop_token_ids,
        return_token_ids=args.return_token_ids,
        structured_output=_structured_output(args),
    )


def read_text(args: argparse.Namespace) -> str:
    """The argument, else --file, else standard input."""
    if args.prompt is not None and args.file:
        raise UsageError("the text is an argument and --file, too")
    if args.prompt is not None:
        return str(args.prompt)
    return sys.stdin.read() if args.file in (None, "-") else read_file(args.file)


def read_file(name: str) -> str:
    try:
        with open(name, encoding="utf-8") as file:
            return file.read()
    except (OSError, ValueError) as failure:
        raise UsageError(f"{name}: {failure}") from failure


def _structured_output(args: argparse.Namespace) -> StructuredOutput | None:
    given = [name for name in ("regex", "json_schema", "json_object") if getattr(args, name)]
    if len(given) > 1:
        raise UsageError(f"--{given[0]} and --{given[1]} can't both hold")
    if args.regex:
        return Regex(args.regex)
    if args.json_schema:
        schema = args.json_schema
        return JsonSchema(schema if schema.lstrip().startswith("{") else read_file(schema))
    return JsonObject() if args.json_object else None


def _command(commands: Any, name: str, what: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=what, description=what, epilog=EXIT_CODES, allow_abbrev=False
    )
    for flag, default in (("server", "127.0.0.1:50051"), ("control", "127.0.0.1:50052")):
        command.add_argument(
            f"--{flag}", metavar="HOST:PORT", help=f"else $TAUSERVE_{flag.upper()}, {default}"
        )
    command.add_argument("--timeout", type=float, metavar="SECONDS", help="of the call, all its tries included")
    command.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    command.add_argument("--model", default="", help="name of the model; else the served one")
    command.add_argument("--tls_ca", metavar="FILE", help="the server's authorities, PEM; else $TAUSERVE_TLS_CA")
    command.add_argument("--tls_cert", metavar="FILE", help="the client's certificate, PEM; else $TAUSERVE_TLS_CERT")
    command.add_argument("--tls_key", metavar="FILE", help="its key, PEM; else $TAUSERVE_TLS_KEY")
    command.add_argument("--tls_server_name", help="in the server's certificate; else $TAUSERVE_TLS_SERVER_NAME")
    command.add_argument("--token_file", metavar="FILE", help="token to send; else $TAUSERVE_TOKEN itself")
    return command


def _generation_flags(command: argparse.ArgumentParser) -> None:
    _switch(command, "stream", "print text as it comes; default on a terminal", default=sys.stdout.isatty())
    _switch(command, "progress", "show how far the prompt is read; default on a terminal", default=sys.stderr.isatty())
    _switch(command, "stats", "statistics on standard error at the end", default=True)
    for name, (kind, what) in _NUMBERS.items():
        command.add_argument(f"--{name}", type=kind, help=what)
    for name, what in _SWITCHES.items():
        _switch(command, name, what, default=None)
    for name, what in _TEXTS.items():
        command.add_argument(f"--{name}", help=what)
    command.add_argument("--truncation_side", choices=("left", "right"), help="where tokens are removed")
    command.add_argument("--stop", action="append", default=[], help="end before this text; may be given several times")
    command.add_argument(
        "--bad_word", action="append", default=[], help="text not to generate; may be given several times"
    )
    command.add_argument("--stop_token_ids", type=_ids, default=[], help="end at these tokens, comma between")
    command.add_argument("--return_token_ids", action="store_true", help="with --json: token ids")
    command.add_argument("--regex", help="what the whole output matches")
    command.add_argument("--json_schema", help="the output is JSON of this schema: a file, or itself")
    command.add_argument("--json_object", action="store_true", help="the output is a JSON object")


def _file_flag(command: argparse.ArgumentParser) -> None:
    command.add_argument("--file", help="read the text from a file; -: standard input")


def _switch(command: argparse.ArgumentParser, name: str, what: str, default: bool | None) -> None:
    command.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, default=default, help=what)


def _ids(text: str) -> Sequence[int]:
    return [int(word) for word in text.split(",") if word]
