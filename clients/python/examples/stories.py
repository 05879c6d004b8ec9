"""Asks for several stories at once and shows how each ends, and what its attention looked at.

    python clients/python/examples/stories.py --beginning "Once upon a time, there was a little fox."

Needs `pip install ./clients/python` and a server, at 127.0.0.1:50051 or where --server or $TAUSERVE_SERVER says.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys

import tauserve


async def tell(client: tauserve.AsyncClient, beginning: str, seed: int, max_new_tokens: int) -> str:
    """A story, and a line of what it cost."""
    options = tauserve.GenerationOptions(seed=seed, max_new_tokens=max_new_tokens)
    text, cost = beginning, ""
    async with client.stream(beginning, options) as events:
        async for event in events:
            if isinstance(event, tauserve.CandidateDelta):
                text += event.text
            elif isinstance(event, tauserve.StreamCompleted):
                cost = (
                    f"{event.usage.completion_tokens} tokens in {event.timings.total:.2f} s, "
                    f"{event.attention.mean_support_tokens:.1f} keys attended a row"
                )
    return f"{text}\n[{cost}]\n"


async def tell_all(server: str, beginning: str, stories: int, max_new_tokens: int) -> None:
    async with tauserve.AsyncClient(server, timeout=600) as client:
        for story in asyncio.as_completed([tell(client, beginning, seed, max_new_tokens) for seed in range(stories)]):
            print(await story)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--server", default=os.environ.get("TAUSERVE_SERVER", "127.0.0.1:50051"))
    parser.add_argument("--beginning", default="Once upon a time, there was a little fox named Mira. One day,")
    parser.add_argument("--stories", type=int, default=3)
    parser.add_argument("--max_new_tokens", type=int, default=60)
    args = parser.parse_args()
    try:
        asyncio.run(tell_all(args.server, args.beginning, args.stories, args.max_new_tokens))
    except tauserve.TauserveError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
