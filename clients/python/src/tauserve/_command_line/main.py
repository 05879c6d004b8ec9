from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from tauserve._command_line import flags, generate
from tauserve._command_line.failure import OK, REFUSED, USAGE, UsageError, error_json, exit_code, failure_line
from tauserve._encode import SAMPLING_FIELDS
from tauserve.client import Client, ControlClient
from tauserve.errors import TauserveError


def main(words: Sequence[str]) -> int:
    args = flags.parser().parse_args(words)  # ends the process with 2 if a word is wrong
    try:
        return _run(args)
    except UsageError as failure:
        print(f"tauserve: {failure}", file=sys.stderr)
        return USAGE
    except TauserveError as error:
        if args.json:
            print(json.dumps({"error": error_json(error)}, ensure_ascii=False))
        print(f"tauserve: {failure_line(error)}", file=sys.stderr)
        return exit_code(error)
    except KeyboardInterrupt:
        print("tauserve: CANCELLED: interrupted", file=sys.stderr)
        return REFUSED


def _run(args: argparse.Namespace) -> int:
    connected = {"credentials": flags.credentials(args), "timeout": args.timeout}
    if args.command == "load":
        with ControlClient(_address(args, "control", "127.0.0.1:50052"), **connected) as control:
            return _show(args, dataclasses.asdict(control.get_load()))
    with Client(_address(args, "server", "127.0.0.1:50051"), **connected) as client:
        if args.command == "generate":
            return generate.run(client, generate.generation_prompt(args), args)
        if args.command == "chat":
            return generate.run(client, generate.chat_prompt(args), args)
        if args.command == "tokenize":
            return _tokenize(client, args)
        if args.command == "detokenize":
            text = client.detokenize(args.ids, model=args.model, skip_special_tokens=args.skip_special_tokens)
            return _show(args, {"text": text}, text)
        return _info(client, args, connected)


def _address(args: argparse.Namespace, flag: str, default: str) -> str:
    return getattr(args, flag) or os.environ.get(f"TAUSERVE_{flag.upper()}") or default


def _tokenize(client: Client, args: argparse.Namespace) -> int:
    tokens = client.tokenize(
        flags.read_text(args), model=args.model, add_special_tokens=args.add_special_tokens, return_token_strings=True
    )
    lines = [f"{token_id:7}  {string}" for token_id, string in zip(tokens.token_ids, tokens.token_strings)]
    return _show(args, {"count": len(lines), **dataclasses.asdict(tokens)}, "\n".join(lines))


def _info(client: Client, args: argparse.Namespace, connected: dict[str, Any]) -> int:
    model = dataclasses.asdict(client.get_model(args.model))
    # Of the defaults, those that the model has.
    model["default_sampling"] = {
        name: value
        for name, value in model["default_sampling"].items()
        if name in SAMPLING_FIELDS and value is not None
    }
    if args.control:
        with ControlClient(args.control, **connected) as control:
            model = {**model, **dataclasses.asdict(control.get_server_info())}
    return _show(args, model)


def _show(args: argparse.Namespace, values: dict[str, Any], text: str | None = None) -> int:
    if args.json:
        print(json.dumps(values, ensure_ascii=False))
    elif text is not None:
        print(text)
    else:
        width = max(map(len, values))
        for name, value in values.items():
            print(f"{name:{width}}  {value}")
    return OK
