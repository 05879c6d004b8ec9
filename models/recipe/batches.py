"""Training batches, drawn by processes of their own. Rows get longer as the training goes on.

Reads and writes no files. Batch n is drawn from a random.Random that n seeds: trainings with equal
options and stories see the same batches, however fast they are.
"""

import multiprocessing
import random
from typing import NamedTuple

import numpy as np

import rows

WAITING_BATCHES = 2  # of each process


class Schedule(NamedTuple):
    """`count` batches of about `tokens` tokens; the training's progress goes from `begin` to 1."""

    tokens: int
    count: int
    begin: float
    second_stage: bool

    def progress(self, number):
        return self.begin + (1 - self.begin) * number / self.count

    def draw(self, bank, number):
        """-> batch `number`: tokens and weights (rows.py), [count, length]."""
        rng = random.Random(f"{self.second_stage} {number}")
        length = draw_length(rng, self.progress(number), self.second_stage)
        return draw_batch(rng, bank, min(length, self.tokens), self.tokens)


def draw_length(rng, progress, second_stage):
    """Tokens of the next batch's rows, by the share of the training that is over."""
    if progress < 0.25:
        return rng.choice((512, 512, 1024))
    if progress < 0.50:
        return rng.choice((512, 1024, 2048, 4096))
    if not second_stage:
        return rng.choice((512, 1024, 2048, 4096, 8192, 16384, 16384))
    return rng.choice((512, 1024, 1024, 2048, 2048, 4096, 4096, 8192, 16384, 32768))


def story_share(length):
    """Share of the rows that are stories alone."""
    if length <= 1024:
        return 0.4
    return 0.25 if length <= 4096 else 0.1


def draw_batch(rng, bank, length, tokens):
    batch = []
    for _ in range(max(1, tokens // length)):
        if rng.random() < story_share(length):
            batch.append(rows.story_row(rng, bank, length))
        else:
            batch.append(rows.recall_row(rng, bank, length)[:2])
    return np.stack([row[0] for row in batch]), np.stack([row[1] for row in batch])


def _work(bank, schedule, first, step, queue):
    for number in range(first, schedule.count, step):
        queue.put(schedule.draw(bank, number))


class Batches:
    """Iterates over all batches. The processes are forked: create this before CUDA is used."""

    def __init__(self, bank, schedule, workers):
        context = multiprocessing.get_context("fork")
        self._count = schedule.count
        self._queues = [context.Queue(maxsize=WAITING_BATCHES) for _ in range(workers)]
        self._processes = [
            context.Process(
                target=_work, args=(bank, schedule, first, workers, queue), daemon=True
            )
            for first, queue in enumerate(self._queues)
        ]
        for process in self._processes:
            process.start()

    def __iter__(self):
        for number in range(self._count):
            yield self._queues[number % len(self._queues)].get()

    def waiting(self):
        return sum(queue.qsize() for queue in self._queues)

    def stop(self):
        for process in self._processes:
            process.terminate()
