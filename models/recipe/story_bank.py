"""The tokenized stories that training rows are made of, in memory and on disk.

A data folder holds
- tokenizer.json: the tokenizer (Hugging Face tokenizers);
- stories0.xz, stories1.xz, ...: in this order, the uint16 tokens of all stories one after another,
  each story tokenized with a blank line at its end;
- lengths.xz: int32, the tokens of each story, negative if the teacher left the story unfinished.
The .xz files are raw little-endian arrays, compressed.
"""

import glob
import lzma
import multiprocessing
import os

import numpy as np
from tokenizers import Tokenizer

SENTENCE_ENDS = (".", "!", "?", '."', '!"', '?"')
FILES = 4  # of stories: compressed and read in parallel
PROCESSES = 2  # that compress


class StoryBank:
    """All stories, and, by token, where a fact can be put into them.

    ids and lengths are the arrays of stories*.xz and lengths.xz.
    """

    def __init__(self, ids, lengths, tokenizer):
        self.ids = ids
        self.tokenizer = tokenizer
        self.finished = lengths > 0
        self.offsets = np.concatenate([[0], np.cumsum(np.abs(lengths), dtype=np.int64)])
        self.count = len(lengths)
        vocabulary = range(tokenizer.get_vocab_size())
        texts = [tokenizer.decode([i], skip_special_tokens=False) for i in vocabulary]
        names = [tokenizer.id_to_token(i) for i in vocabulary]
        self.ends_paragraph = np.array([text.endswith("\n\n") for text in texts])
        self.ends_sentence = np.array([text in SENTENCE_ENDS for text in texts])
        self.begins_word = np.array([name.startswith("Ġ") and len(name) > 1 for name in names])
        # A token that ends a paragraph -> tokens of the same text without its line ends.
        self.without_line_end = {
            i: tokenizer.encode(text.rstrip("\n"), add_special_tokens=False).ids
            for i, text in enumerate(texts)
            if text.endswith("\n\n")
        }

    def story(self, i):
        return self.ids[self.offsets[i] : self.offsets[i + 1]]

    def draw_story(self, rng):
        return self.story(rng.randrange(self.count))

    def encode(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids


def _compress(path, data):
    with lzma.open(path, "wb", preset=2) as file:
        file.write(data)


def _decompress(path):
    with lzma.open(path) as file:
        return file.read()


def write_bank(stories, finished, folder):
    """Writes all but the tokenizer. stories: arrays of tokens; finished: a boolean for each."""
    for path in glob.glob(f"{glob.escape(folder)}/stories*.xz"):
        os.remove(path)
    ids = np.concatenate(stories).astype(np.uint16)
    sizes = np.array([len(story) for story in stories], np.int32)
    jobs = [
        (f"{folder}/stories{i}.xz", part.tobytes())
        for i, part in enumerate(np.array_split(ids, FILES))
    ]
    jobs.append((f"{folder}/lengths.xz", np.where(finished, sizes, -sizes).tobytes()))
    with multiprocessing.get_context("fork").Pool(PROCESSES) as pool:
        pool.starmap(_compress, jobs)


def load_bank(folder):
    """Reads a data folder -> StoryBank."""
    tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
    paths = sorted(glob.glob(f"{glob.escape(folder)}/stories*.xz"))
    with multiprocessing.get_context("fork").Pool(max(1, len(paths))) as pool:
        parts = pool.map(_decompress, paths)
    ids = np.frombuffer(b"".join(parts), np.uint16)
    lengths = np.frombuffer(_decompress(f"{folder}/lengths.xz"), np.int32)
    return StoryBank(ids, lengths, tokenizer)
