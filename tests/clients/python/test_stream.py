"""Streams: their events, and the ways to leave them; a request that is left is gone from the server."""

import asyncio
import subprocess
import sys
import threading

import pytest
from requests_made import STORY
from server_process import PATIENCE
from tauserve import (AsyncClient, CandidateDelta, CandidateFinished, Client, FinishReason, GenerationOptions, PrefillProgress,
                      Started, StreamCompleted)

GREEDY = GenerationOptions(temperature=0, max_new_tokens=8)
ENDLESS = GenerationOptions(max_new_tokens=20000, ignore_eos=True)


def test_events(client):
    options = GenerationOptions(temperature=0, max_new_tokens=8, top_logprobs=0, bypass_prefix_cache=True)
    events = list(client.stream(STORY * 60, options))
    assert isinstance(events[0], Started) and events[0].request_id
    progress = [event for event in events if isinstance(event, PrefillProgress)]
    assert len(progress) >= 2  # 512 tokens a step
    assert progress[-1].processed_tokens == progress[-1].total_tokens == events[0].prompt.prompt_tokens
    deltas = [event for event in events if isinstance(event, CandidateDelta)]
    assert sum(event.num_tokens for event in deltas) == 8
    assert isinstance(events[-2], CandidateFinished) and events[-2].finish_reason is FinishReason.MAX_NEW_TOKENS
    assert isinstance(events[-1], StreamCompleted) and events[-1].usage.completion_tokens == 8
    whole = client.generate(STORY * 60, options)
    assert "".join(event.text for event in deltas) == whole.text
    assert tuple(i for event in deltas for i in event.token_ids) == whole.token_ids
    logprobs = [p for event in deltas for p in event.logprobs]
    assert [p.token_id for p in logprobs] == list(whole.token_ids)
    # Steps of other sizes round otherwise.
    assert [p.logprob for p in logprobs] == pytest.approx([p.logprob for p in whole.candidates[0].logprobs], abs=1e-3)


def test_without_progress(client):
    events = list(client.stream(STORY * 60, GREEDY, prefill_progress=False))
    assert not any(isinstance(event, PrefillProgress) for event in events)


def test_several_candidates(client):
    options = GenerationOptions(num_candidates=3, seed=1, max_new_tokens=5)
    ends = [event.index for event in client.stream(STORY, options) if isinstance(event, CandidateFinished)]
    assert sorted(ends) == [0, 1, 2]


def is_delta(event):
    return isinstance(event, CandidateDelta)


@pytest.fixture
def blocking(server):
    with Client(server.serving["grpc"], timeout=PATIENCE) as client:
        yield client
    server.wait_idle()


def test_break_leaves(server, blocking):
    for event in blocking.stream(STORY, ENDLESS):
        if is_delta(event):
            assert server.load().running_requests == 1
            break
    server.wait_idle()


def test_end_of_with_leaves(server, blocking):
    with blocking.stream(STORY, ENDLESS) as events:
        next(event for event in events if is_delta(event))
    server.wait_idle()
    assert list(events) == []


def test_cancel_from_another_thread(server, blocking):
    stream, seen = blocking.stream(STORY, ENDLESS), threading.Event()

    def read():
        for event in stream:
            if is_delta(event):
                seen.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert seen.wait(PATIENCE)
    stream.cancel()
    reader.join(PATIENCE)
    assert not reader.is_alive()
    server.wait_idle()


def test_a_stream_that_is_cancelled_before_it_began_is_never_asked_for(server, blocking):
    before = server.metrics().sum("requests_total")
    stream = blocking.stream(STORY, ENDLESS)
    stream.cancel()
    assert list(stream) == [] and server.metrics().sum("requests_total") == before


def awaited(server, use):
    async def main():
        async with AsyncClient(server.serving["grpc"], timeout=PATIENCE) as client:
            await use(client)

    asyncio.run(main())


async def idle(server):
    """Without leaving the loop to itself for long: it has the cancellation to send."""
    await asyncio.get_running_loop().run_in_executor(None, server.wait_idle)


def test_break_leaves_awaited(server):
    async def use(client):
        async for event in client.stream(STORY, ENDLESS):
            if is_delta(event):
                break
        await idle(server)

    awaited(server, use)


def test_end_of_async_with_leaves(server):
    async def use(client):
        async with client.stream(STORY, ENDLESS) as events:
            async for event in events:
                if is_delta(event):
                    break
        await idle(server)
        assert [event async for event in events] == []

    awaited(server, use)


def test_cancelled_task_leaves(server):
    async def use(client):
        begun = asyncio.Event()

        async def read():
            async for event in client.stream(STORY, ENDLESS):
                if is_delta(event):
                    begun.set()

        task = asyncio.create_task(read())
        await asyncio.wait_for(begun.wait(), PATIENCE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await idle(server)

    awaited(server, use)


def test_cancel_while_a_task_waits_for_an_event(server):
    async def use(client):
        stream, begun = client.stream(STORY, ENDLESS), asyncio.Event()

        async def read():
            async for event in stream:
                if is_delta(event):
                    begun.set()

        task = asyncio.create_task(read())
        await asyncio.wait_for(begun.wait(), PATIENCE)
        stream.cancel()
        await asyncio.wait_for(task, PATIENCE)
        await idle(server)

    awaited(server, use)


def test_cancelled_task_leaves_a_call(server):
    async def use(client):
        task = asyncio.create_task(client.generate(STORY, ENDLESS))
        loop = asyncio.get_running_loop()
        while not (await loop.run_in_executor(None, server.load)).running_requests:
            assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await idle(server)

    awaited(server, use)


def test_a_loop_may_end_before_its_stream(server):
    """Nothing complains on standard error when it is dropped later."""
    code = f"""
import asyncio, tauserve
async def main():
    client = tauserve.AsyncClient({server.serving["grpc"]!r})
    stream = client.stream("Once", tauserve.GenerationOptions(max_new_tokens=20000, ignore_eos=True))
    await anext(stream)
    return stream
kept = asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    server.wait_idle()


def test_many_at_once(server):
    async def use(client):
        async def text(number):
            options = GenerationOptions(seed=number, max_new_tokens=5)
            return "".join([event.text async for event in client.stream(STORY, options) if is_delta(event)])

        assert await asyncio.gather(*map(text, range(8))) == [await text(number) for number in range(8)]

    awaited(server, use)
