"""`generate` and `chat`: a bar while the prompt is read, the text as it comes, statistics at the end."""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from typing import Any, Optional

from tqdm import tqdm

from tauserve import results
from tauserve._command_line import flags
from tauserve._command_line.failure import OK, UsageError, exit_code, failure_line
from tauserve._command_line.outcome import Outcome
from tauserve._encode import Prompt
from tauserve.chat import Chat, ChatTemplate
from tauserve.client import Client
from tauserve.errors import TauserveError


def generation_prompt(args: argparse.Namespace) -> Prompt:
    if args.token_ids is None:
        return flags.read_text(args)
    if args.prompt is not None or args.file:
        raise UsageError("the prompt is --token_ids and text, too")
    ids: list[int] = args.token_ids
    return ids


def chat_prompt(args: argparse.Namespace) -> Chat:
    messages = [{"role": "system", "content": args.system}] if args.system is not None else []
    messages.append({"role": "user", "content": flags.read_text(args)})
    return Chat(messages=messages, template=_template(args.chat_template) if args.chat_template else None)


def run(client: Client, prompt: Prompt, args: argparse.Namespace) -> int:
    options = flags.generation_options(args)
    display = _Display(args)
    error: TauserveError | None = None
    with client.stream(prompt, options) as stream:
        try:
            for event in stream:
                display.show(event)
        except TauserveError as failure:
            error = failure
        finally:  # of an interrupt as well
            display.end()
    if args.json:
        print(json.dumps(display.outcome.to_json(error), ensure_ascii=False))
    else:
        display.show_texts()
        if args.stats and (error is None or display.outcome.request_id):
            print(display.outcome.summary(), file=sys.stderr)
    if error is None:
        return OK
    print(f"tauserve: {failure_line(error)}", file=sys.stderr)
    return exit_code(error)


def _template(name: str) -> ChatTemplate:
    path = pathlib.Path(name)
    try:
        if path.is_dir() or path.suffix == ".json":
            return ChatTemplate.from_tokenizer_config(path)
    except OSError as failure:
        raise UsageError(f"--chat_template: {failure}") from failure
    return ChatTemplate(flags.read_file(name))


class _Display:
    def __init__(self, args: argparse.Namespace) -> None:
        self.outcome = Outcome()
        self._stream = args.stream and not args.json and (args.num_candidates or 1) == 1
        self._progress = args.progress
        self._bar: Optional[tqdm[Any]] = None
        self._shown = False

    def show(self, event: results.Event) -> None:
        self.outcome.add(event)
        if isinstance(event, results.Started) and self._progress:
            # What was in the cache cost no time, so it counts for no rate.
            self._bar = tqdm(
                desc="prefill",
                total=event.prompt.prompt_tokens,
                initial=event.prompt.cached_tokens,
                unit=" tokens",
                file=sys.stderr,
            )
        elif isinstance(event, results.PrefillProgress) and self._bar is not None:
            self._bar.update(event.processed_tokens - self._bar.n)
        elif isinstance(event, results.CandidateDelta):
            self._end_bar()
            if self._stream and event.text:
                print(event.text, end="", flush=True)
                self._shown = True

    def end(self) -> None:
        """Leaves both cursors at the start of a line."""
        self._end_bar()
        if self._shown and not self.outcome.candidates[0].text.endswith("\n"):
            print(flush=True)

    def show_texts(self) -> None:
        """Of what was not streamed."""
        if self._stream:
            return
        for index, candidate in enumerate(self.outcome.candidates):
            if len(self.outcome.candidates) > 1:
                print(f"--- candidate {index} ---")
            if candidate.text:
                print(candidate.text)

    def _end_bar(self) -> None:
        if self._bar is not None:
            self._bar.update(self.outcome.processed_prompt_tokens - self._bar.n)
            self._bar.close()
            self._bar = None
