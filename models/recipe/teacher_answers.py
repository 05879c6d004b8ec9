"""The teacher's answers on disk: answers0.xz, answers1.xz, ... in a folder.

Each file is a compressed, little-endian uint16 array of the teacher's tokens, with a 0 (which no
answer holds) behind each answer. The first words that the prompt gave are part of the answer; so is
<|im_end|>, if the teacher ended the answer by itself. Files are cut at equal sizes: of an answer at
a border, the first part is not read, and the second part reads as an answer of its own.
"""

import glob
import lzma
import multiprocessing
import os

import numpy as np

FILE_BYTES = 14 * 2**20  # of tokens, before compression
MOST_FILES = 8  # compressed in parallel


def is_varied(ids, least_share):
    """Whether at least this share of the four-grams of `ids`, a list, is different."""
    fourgrams = set(zip(ids, ids[1:], ids[2:], ids[3:]))
    return len(fourgrams) >= least_share * (len(ids) - 3)


def _write(path, data):
    with lzma.open(path, "wb", preset=1) as file:
        file.write(data)


def write_answers(answers, folder):
    """answers: uint16 arrays, without their 0."""
    os.makedirs(folder, exist_ok=True)
    zero = np.zeros(1, np.uint16)
    tokens = np.concatenate([part for answer in answers for part in (answer, zero)])
    count = max(1, min(MOST_FILES, 1 + tokens.nbytes // FILE_BYTES))
    jobs = [
        (f"{folder}/answers{i}.xz", part.tobytes())
        for i, part in enumerate(np.array_split(tokens, count))
    ]
    with multiprocessing.get_context("fork").Pool(MOST_FILES) as pool:
        pool.starmap(_write, jobs)


def read_answers(path):
    """-> the answers in one file, as lists of tokens."""
    with lzma.open(path) as file:
        tokens = np.frombuffer(file.read(), np.uint16)
    ends = np.flatnonzero(tokens == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    return [tokens[start:end].tolist() for start, end in zip(starts, ends)]


def answer_files(folder):
    """Paths of all answers in the folders inside `folder`, one folder a run of the teacher."""
    return sorted(glob.glob(f"{glob.escape(folder)}/*/answers*.xz"))
