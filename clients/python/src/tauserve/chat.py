"""Chats, written by the server as its model's template says, or by a Jinja template on this side."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Union

import grpc
import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from tauserve.errors import ChatTemplateError


@dataclasses.dataclass(frozen=True)
class ChatMessage:
    role: str  # "system", "user", "assistant" or "tool"
    content: str


Message = Union[ChatMessage, Mapping[str, Any]]  # a mapping as in {"role": "user", "content": "Who are you?"}


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
    """A Jinja template, rendered as PyPI's transformers renders it; in a sandbox, as it may come from a stranger.

    A message that spells one of `control_tokens` is refused, since the text that the template makes of it could not be
    told from the template's own.
    """

    source: str
    variables: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # "bos_token", "tools", ...
    control_tokens: Sequence[str] = ()

    @classmethod
    def from_tokenizer_config(
        cls, config: str | os.PathLike[str] | Mapping[str, Any], name: str = "default"
    ) -> ChatTemplate:
        """From a tokenizer_config.json: the file, its folder or its contents.

        Of a folder, chat_template.jinja is taken where it is there. `name` chooses where the file has several.
        """
        source = None
        if not isinstance(config, Mapping):
            path = pathlib.Path(config)
            if path.is_dir():
                beside = path / "chat_template.jinja"
                source = beside.read_text(encoding="utf-8") if beside.is_file() else None
                path = path / "tokenizer_config.json"
            config = _json_object(path)
        if source is None:
            source = _template_named(config.get("chat_template"), name)
        tokens = {
            key: _spelling(value) for key, value in config.items() if key.endswith("_token") and _spelling(value)
        }
        control = [*tokens.values(), *map(_spelling, config.get("additional_special_tokens") or ())]
        for entry in (config.get("added_tokens_decoder") or {}).values():
            if entry.get("special"):
                control.append(_spelling(entry))
        return cls(source, tokens, tuple(dict.fromkeys(control)))

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
    ) -> str:
        """The chat as the model reads it, control tokens spelt out. Raises ChatTemplateError."""
        plain = [as_dict(message) for message in messages]
        for index, message in enumerate(plain):
            for token in self.control_tokens:
                if token in str(message.get("content", "")):
                    raise _error(f"message {index} spells the control token {token}")
        try:
            text = _compiled(self.source).render(
                **self.variables,
                messages=plain,
                add_generation_prompt=add_generation_prompt and not continue_final_message,
            )
        except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as failure:
            raise _error(str(failure)) from failure
        return _up_to_end_of(text, str(plain[-1].get("content", ""))) if continue_final_message and plain else text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chat:
    """A prompt. Without `template` the server writes it, and what a message says never becomes a control token."""

    messages: Sequence[Message]
    add_generation_prompt: bool = True  # ends with the beginning of the assistant's answer
    continue_final_message: bool = False  # the last message is left open, and the model goes on with it
    template: ChatTemplate | str | None = None

    def rendered(self) -> str | None:
        """None where the server is to write it."""
        if self.template is None:
            return None
        template = ChatTemplate(self.template) if isinstance(self.template, str) else self.template
        return template.render(
            self.messages,
            add_generation_prompt=self.add_generation_prompt,
            continue_final_message=self.continue_final_message,
        )


def as_dict(message: Message) -> dict[str, Any]:
    if isinstance(message, ChatMessage):
        return {"role": message.role, "content": message.content}
    return dict(message)


def _error(message: str) -> ChatTemplateError:
    return ChatTemplateError(grpc.StatusCode.INVALID_ARGUMENT, f"chat template: {message}")


def _json_object(path: pathlib.Path) -> Mapping[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as failure:
        raise _error(f"{path}: {failure}") from failure
    if not isinstance(config, dict):
        raise _error(f"{path} holds no JSON object")
    return config


def _template_named(templates: Any, name: str) -> str:
    if isinstance(templates, str):
        return templates
    named = {entry["name"]: entry["template"] for entry in templates or ()}
    if name not in named:
        raise _error(f"there is none named {name!r}, but {sorted(named)}" if named else "the model has none")
    return str(named[name])


def _spelling(token: Any) -> str:
    """Of a string, or of an object that has it as its content."""
    return str(token.get("content", "")) if isinstance(token, Mapping) else str(token or "")


def _up_to_end_of(text: str, content: str) -> str:
    """Without what the template put behind its last message."""
    content = content.strip()
    at = text.rfind(content)
    if at < 0:
        raise _error("the last message is not in the text, so it can't be continued")
    return text[: at + len(content)]


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


class _Generation(jinja2.ext.Extension):
    """{% generation %} marks what the assistant says for those who train; it says nothing to those who ask."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@functools.lru_cache(maxsize=64)
def _compiled(source: str) -> jinja2.Template:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment.from_string(source)
