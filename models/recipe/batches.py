"""Training batches, drawn by processes of their own. Rows get longer as the training goes on.

Reads and writes no files. Every process draws from a random.Random with a seed of its own; which
lengths it draws depends on the clock, so no two trainings see the same batches.
"""

import multiprocessing
import random
import time

import numpy as np

import rows

FIRST_SEED = 1000


def draw_length(rng, progress, second_stage):
    """Tokens of the next batch's rows, by the share of the training time that is over."""
    if progress < 0.25:
        return rng.choice((512, 512, 1024))
    if progress < 0.50:
        return rng.choice((512, 1024, 2048, 4096))
    if progress < 1 and not second_stage:
        return rng.choice((512, 1024, 2048, 4096, 8192, 16384, 16384))
    return rng.choice((512, 1024, 1024, 2048, 2048, 4096, 4096, 8192, 16384, 16384))


def story_share(length):
    """Share of the rows that are stories alone."""
    if length <= 1024:
        return 0.4
    return 0.25 if length <= 4096 else 0.1


def draw_batch(rng, bank, length, tokens):
    """-> tokens and weights (rows.py), [count, length] with count * length about `tokens`."""
    batch = []
    for _ in range(max(1, tokens // length)):
        if rng.random() < story_share(length):
            batch.append(rows.story_row(rng, bank, length))
        else:
            batch.append(rows.recall_row(rng, bank, length)[:2])
    return np.stack([row[0] for row in batch]), np.stack([row[1] for row in batch])


class Clock:
    """Progress of the training, shared by its processes: from `begin` to 1 in `seconds`."""

    def __init__(self, context, begin, seconds):
        self.begin = begin
        self.seconds = seconds
        self._start = context.Value("d", 0.0)  # 0: not started

    def start(self):
        self._start.value = time.time()

    def elapsed(self):
        """Seconds since start(); 0 before it."""
        return time.time() - self._start.value if self._start.value > 0 else 0.0

    def progress(self):
        return self.begin + (1 - self.begin) * self.elapsed() / self.seconds


def _work(bank, seed, queue, clock, tokens, second_stage):
    rng = random.Random(seed)
    while True:
        length = draw_length(rng, clock.progress(), second_stage)
        queue.put(draw_batch(rng, bank, length, tokens))


class Batches:
    """get() returns the next batch. The processes are forked: create this before CUDA is used."""

    def __init__(self, bank, workers, tokens, begin, seconds, second_stage, capacity):
        context = multiprocessing.get_context("fork")
        self.clock = Clock(context, begin, seconds)
        self._queue = context.Queue(maxsize=capacity)
        first_seed = FIRST_SEED + int(begin * 1e6)
        self._processes = [
            context.Process(
                target=_work,
                args=(bank, first_seed + i, self._queue, self.clock, tokens, second_stage),
                daemon=True,
            )
            for i in range(workers)
        ]
        for process in self._processes:
            process.start()

    def get(self):
        return self._queue.get()

    def waiting(self):
        return self._queue.qsize()

    def stop(self):
        for process in self._processes:
            process.terminate()
