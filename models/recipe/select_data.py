"""Selects the cleaner part of the stories, for the second stage of the training.

Reads one data folder (story_bank.py) and writes another: the stories with the highest scores (few
repeated n-grams, many different words, finished), without those that comment on the story. The
tokenizer is copied.
"""

import argparse
import os
import re
import shutil

import numpy as np

import story_bank

COMMENTS = re.compile(
    r"this story|the story|passage|dialogue|this tale|narrative|in conclusion|sentences"
    r"|explanation|protagonist",
    re.IGNORECASE,
)


def score(ids, finished, vocabulary):
    """Higher for more different trigrams, bigrams and tokens, and for a finished story."""
    ids = ids.astype(np.int64)
    count = len(ids)
    trigrams = ids[:-2] * vocabulary * vocabulary + ids[1:-1] * vocabulary + ids[2:]
    bigrams = ids[:-1] * vocabulary + ids[1:]
    different_trigrams = len(np.unique(trigrams)) / (count - 2)
    different_bigrams = len(np.unique(bigrams)) / (count - 1)
    richness = len(np.unique(ids)) / count**0.75  # vocabulary for its length
    bonus = 0.15 if finished else 0
    return different_trigrams + different_bigrams + 0.5 * min(richness, 1.6) + bonus


def select(bank, count, least_tokens, seed):
    """-> numbers of the best `count` stories less those with comments, in random order."""
    long_enough = [i for i in range(bank.count) if len(bank.story(i)) >= least_tokens]
    vocabulary = bank.tokenizer.get_vocab_size()
    scores = [score(bank.story(i), bank.finished[i], vocabulary) for i in long_enough]
    best = [long_enough[rank] for rank in np.argsort(-np.array(scores))[:count]]
    clean = [i for i in best if not COMMENTS.search(bank.tokenizer.decode(bank.story(i).tolist()))]
    return [clean[i] for i in np.random.RandomState(seed).permutation(len(clean))]


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--data", default="data", help="data folder to read")
    add("--out", default="data2", help="data folder to write")
    add("--count", type=int, default=45000, help="stories to select, before comments are left out")
    add("--least_tokens", type=int, default=50, help="of a story")
    add("--seed", type=int, default=0, help="of the stories' order")
    return parser.parse_args()


def main():
    args = parse_arguments()
    bank = story_bank.load_bank(args.data)
    selected = select(bank, args.count, args.least_tokens, args.seed)
    stories = [bank.story(i) for i in selected]
    finished = [bank.finished[i] for i in selected]
    os.makedirs(args.out, exist_ok=True)
    story_bank.write_bank(stories, finished, args.out)
    shutil.copyfile(f"{args.data}/tokenizer.json", f"{args.out}/tokenizer.json")
    tokens = sum(len(story) for story in stories)
    print(f"{len(stories)} stories, {sum(finished)} of them finished, {tokens} tokens")
    for story in stories[:4]:
        print("--", bank.tokenizer.decode(story.tolist()))


if __name__ == "__main__":
    main()
