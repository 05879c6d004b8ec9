"""Short ways to write the requests that tests send."""

import grpc
import pytest

from protos import inference
from server_process import PATIENCE

STORY = "Once upon a time, there was a little fox named Mira. One day,"


def generation(prompt=STORY, temperature=0.0, max_new_tokens=16, **fields):
    """GenerationInput; `prompt` is text or a list of ids; groups of fields are given as dictionaries."""
    message = inference.GenerationInput(**{k: v for k, v in fields.items() if not isinstance(v, dict)})
    if isinstance(prompt, str):
        message.text = prompt
    elif prompt is not None:
        message.token_ids.ids.extend(prompt)
        message.token_ids.SetInParent()
    groups = {k: dict(v) for k, v in fields.items() if isinstance(v, dict)}
    if temperature is not None:
        groups.setdefault("sampling", {}).setdefault("temperature", temperature)
    if max_new_tokens is not None:
        groups.setdefault("stopping", {}).setdefault("max_new_tokens", max_new_tokens)
    for name, group in groups.items():
        field = message.DESCRIPTOR.fields_by_name[name]
        getattr(message, name).CopyFrom(field.message_type._concrete_class(**group))
    return message


def long_generation(max_new_tokens=20000, **fields):
    """Decodes until it is stopped."""
    stopping = dict(fields.pop("stopping", {}), max_new_tokens=max_new_tokens, ignore_eos=True)
    return generation(stopping=stopping, **fields)


def generate(server, *args, timeout=PATIENCE, **fields):
    request = inference.GenerateRequest(input=generation(*args, **fields))
    return server.stub.Generate(request, timeout=timeout)


def stream(server, message, timeout=PATIENCE, stub=None, **options):
    request = inference.GenerateStreamRequest(input=message)
    if options:
        request.stream.CopyFrom(inference.StreamOptions(**options))
    return (stub or server.stub).GenerateStream(request, timeout=timeout)


def together(server, messages):
    """The answers to GenerationInputs that are asked at once."""
    calls = [server.stub.Generate.future(inference.GenerateRequest(input=m), timeout=PATIENCE) for m in messages]
    return [call.result() for call in calls]


def kinds(events):
    return [event.WhichOneof("event") for event in events]


def text_of(events):
    return "".join(e.delta.text for e in events if e.WhichOneof("event") == "delta")


def tokens_of(events):
    return [t for e in events if e.WhichOneof("event") == "delta" for t in e.delta.token_ids]


def read_until(call, kind):
    """Reads a stream up to its first event of one kind."""
    events = []
    for event in call:
        events.append(event)
        if event.WhichOneof("event") == kind:
            return events
    raise AssertionError(f"the stream ended without {kind}: {kinds(events)}")


def refused(call, code, *parts):
    """Runs `call`, which must fail with `code` and have each of `parts` in its message."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error = caught.value
    assert error.code() == code, f"{error.code()}: {error.details()}"
    for part in parts:
        assert str(part) in error.details(), error.details()
    return error
