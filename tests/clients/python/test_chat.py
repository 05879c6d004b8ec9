"""Chats that the server writes, and those that are rendered here."""

import json

import pytest

from server_process import MODEL
from tauserve import CandidateDelta, Chat, ChatMessage, ChatTemplate, ChatTemplateError, GenerationOptions, InvalidArgumentError

GREEDY = GenerationOptions(temperature=0, max_new_tokens=6)
TALK = [{"role": "system", "content": "Tell stories."}, {"role": "user", "content": "Who is Mira?"}]
# As the server writes ChatML, in the spelling of the embedded model, which knows no <|im_start|>.
TEMPLATE = ("{{ bos_token }}{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
            "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def test_written_by_the_server(client):
    answer = client.chat(TALK, GREEDY)
    tokens = client.tokenize(Chat(messages=TALK)).token_ids
    assert answer.text == client.generate(tokens, GREEDY).text
    assert client.chat([ChatMessage(m["role"], m["content"]) for m in TALK], GREEDY).text == answer.text
    streamed = client.stream(Chat(messages=TALK), GREEDY)
    assert "".join(e.text for e in streamed if isinstance(e, CandidateDelta)) == answer.text


def test_the_servers_rules(client):
    with pytest.raises(InvalidArgumentError, match=r"messages\[0\]"):
        client.chat([{"role": "wizard", "content": "?"}])
    with pytest.raises(InvalidArgumentError, match="tool_calls"):
        client.chat([{"role": "user", "content": "?", "tool_calls": []}])


def test_a_template_as_a_string(client):
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    text = "system: Tell stories.\nuser: Who is Mira?\nassistant:"
    tokens = client.tokenize(Chat(messages=TALK, template=template)).token_ids
    assert tokens == client.tokenize(text, add_special_tokens=False).token_ids
    answer = client.chat(TALK, GREEDY, template=template)
    assert answer.text == client.generate(tokens, GREEDY).text
    streamed = client.stream(Chat(messages=TALK, template=template), GREEDY)
    assert "".join(e.text for e in streamed if isinstance(e, CandidateDelta)) == answer.text


@pytest.fixture
def folder(tmp_path):
    config = json.loads((MODEL / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(dict(config, chat_template=TEMPLATE)))
    return tmp_path


def test_a_template_of_a_model(client, folder):
    template = ChatTemplate.from_tokenizer_config(folder)
    assert template == ChatTemplate.from_tokenizer_config(folder / "tokenizer_config.json")
    assert template == ChatTemplate.from_tokenizer_config(json.loads((folder / "tokenizer_config.json").read_text()))
    tokens = client.tokenize(Chat(messages=TALK, template=template)).token_ids
    assert tokens[0] == 0 and tokens.count(0) == 1  # one <|bos|>, the template's own
    assert client.chat(TALK, GREEDY, template=template).prompt.prompt_tokens == len(tokens)


def test_messages_never_become_control_tokens(folder):
    template = ChatTemplate.from_tokenizer_config(folder)
    with pytest.raises(ChatTemplateError, match="message 0 spells the control token <|eos|>"):
        template.render([{"role": "user", "content": "Hi<|eos|>"}])
    more = ChatTemplate.from_tokenizer_config({
        "chat_template": TEMPLATE, "additional_special_tokens": ["<|tool|>"],
        "added_tokens_decoder": {"7": {"content": "<|im_end|>", "special": True}, "8": {"content": "x", "special": False}}})
    assert more.control_tokens == ("<|tool|>", "<|im_end|>")


def test_of_several_templates_one_has_the_name():
    config = {"bos_token": {"content": "<s>"}, "chat_template": [{"name": "default", "template": "{{ bos_token }}a"},
                                                                {"name": "tool_use", "template": "b"}]}
    assert ChatTemplate.from_tokenizer_config(config).render([]) == "<s>a"
    assert ChatTemplate.from_tokenizer_config(config, "tool_use").render([]) == "b"
    with pytest.raises(ChatTemplateError, match="rag"):
        ChatTemplate.from_tokenizer_config(config, "rag")
    with pytest.raises(ChatTemplateError, match="the model has none"):
        ChatTemplate.from_tokenizer_config(MODEL)


def test_a_file_beside_the_configuration(folder):
    (folder / "chat_template.jinja").write_text("beside")
    assert ChatTemplate.from_tokenizer_config(folder).render([]) == "beside"


def test_rendering():
    template = ChatTemplate(TEMPLATE, {"bos_token": "<s>"})
    assert template.render(TALK[1:]) == "<s><|im_start|>user\nWho is Mira?<|im_end|>\n<|im_start|>assistant\n"
    assert template.render(TALK[1:], add_generation_prompt=False).endswith("<|im_end|>\n")
    begun = TALK[1:] + [{"role": "assistant", "content": "A fox "}]
    assert template.render(begun, continue_final_message=True).endswith("<|im_start|>assistant\nA fox")
    marked = "{%- for m in messages %}{% generation %}{{ m | tojson }}{% endgeneration %}{% break %}{% endfor %}"
    assert ChatTemplate(marked).render([{"role": "user", "content": "é"}]) == '{"role": "user", "content": "é"}'
    with_tools = ChatTemplate("{{ tools[0].name }}", {"tools": [{"name": "search"}]})
    assert with_tools.render([]) == "search"


@pytest.mark.parametrize("source, message", [
    ("{{ raise_exception('no system message, please') }}", "no system message, please"), ("{% for %}", "Expected"),
    ("{{ messages[0].content.absent.more }}", "absent"), ("{{ 1 // 0 }}", "zero"),
    ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe")])
def test_templates_that_fail(source, message):
    with pytest.raises(ChatTemplateError, match=message) as caught:
        ChatTemplate(source).render(TALK)
    assert caught.value.code.name == "INVALID_ARGUMENT"
    assert caught.value.__cause__ is not None


def test_a_template_can_not_change_the_messages():
    messages = [dict(message) for message in TALK]
    with pytest.raises(ChatTemplateError):
        ChatTemplate("{{ messages.append(1) }}").render(messages)
    assert messages == TALK
