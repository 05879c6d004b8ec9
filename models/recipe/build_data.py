"""Filters the teacher's answers, trains the tokenizer, and tokenizes the stories.

Reads RAW/*/answers*.xz (teacher_answers.py says the format) and the teacher's tokenizer.json.
Writes a data folder (story_bank.py): clean stories as tokens of a byte-level BPE tokenizer of 4,096
entries, and that tokenizer.
"""

import argparse
import os
import random
import re

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import recall
import story_bank
import teacher_answers

VOCABULARY = 4096
SPECIAL_TOKENS = ["<|bos|>", "<|eos|>", "<|pad|>"]
TEACHER_END = "<|im_end|>"
SAME_START = 200  # characters: stories that begin with the same ones count as one
TEACHER_BATCH = 5000  # answers decoded at once
BATCH = 10000  # stories tokenized at once

# As Llama 3's, but every digit is a token of its own.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# No story: other alphabets, mark-up, talk of an assistant, what looks like our own questions.
BAD = re.compile(
    r"[^\x20-\x7e\n]|\*\*|http|As an AI|language model|I'm sorry, but I|Question:|Answer:|<\||\[|\{"
    r"|Here is a|Here's a|#"
)
PLAIN_FORMS = {
    "“": '"',
    "”": '"',
    "’": "'",
    "‘": "'",
    "—": " - ",
    "–": " - ",
    "…": "...",
    "é": "e",
}


def clean(text, least_characters):
    """-> the story up to its last sentence's end, and whether it was finished.

    None if it is too short, has signs of BAD, or quotes that don't close.
    """
    finished = text.endswith(TEACHER_END)
    text = text.replace(TEACHER_END, "")
    for fancy, plain in PLAIN_FORMS.items():
        text = text.replace(fancy, plain)
    text = re.sub(r" +", " ", text)
    text = re.sub(r" *\n\s*", "\n\n", text).strip()
    last = max(text.rfind(end) for end in story_bank.SENTENCE_ENDS)
    if last < 0:
        return None
    end = last + 1 + (text[last + 1 : last + 2] == '"')
    if end < len(text):
        finished = False
    text = text[:end]
    if len(text) < least_characters or BAD.search(text) or text.count('"') % 2:
        return None
    return text, finished


def read_stories(raw, teacher_tokenizer, least_characters, least_varied):
    """-> clean stories (text, finished), no two with the same beginning."""
    stories = []
    starts = set()
    total = 0
    for path in teacher_answers.answer_files(raw):
        answers = teacher_answers.read_answers(path)
        answers = [ids for ids in answers if teacher_answers.is_varied(ids, least_varied)]
        for i in range(0, len(answers), TEACHER_BATCH):
            batch = answers[i : i + TEACHER_BATCH]
            for text in teacher_tokenizer.decode_batch(batch, skip_special_tokens=False):
                total += 1
                story = clean(text, least_characters)
                if story and story[0][:SAME_START] not in starts:
                    starts.add(story[0][:SAME_START])
                    stories.append(story)
    finished = sum(story[1] for story in stories)
    print(f"{total} varied answers; kept {len(stories)}, {finished} of them finished", flush=True)
    return stories


def train_tokenizer(texts):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        min_frequency=2,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", pair="<|bos|> $A <|bos|> $B", special_tokens=[("<|bos|>", 0)]
    )
    return tokenizer


def tokenizer_texts(stories, rng, fact_count):
    """Stories, and facts, so that what recall.py words is short in tokens as well."""
    texts = [text + "\n\n" for text, _ in stories]
    for _ in range(fact_count):
        fact = recall.draw_fact(rng, rng.choice(recall.KINDS))
        texts.append(f"{fact.statement}\n\nQuestion: {fact.question}\nAnswer: {fact.answer}\n\n")
    return texts


def tokenize(stories, tokenizer, most_tokens):
    """-> tokens of each story that is not too long, a blank line at its end; whether finished."""
    ids, kept = [], []
    for i in range(0, len(stories), BATCH):
        batch = stories[i : i + BATCH]
        texts = [text + "\n\n" for text, _ in batch]
        encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
        for (_, finished), encoding in zip(batch, encoded):
            if len(encoding.ids) <= most_tokens:
                ids.append(np.array(encoding.ids, np.uint16))
                kept.append(finished)
    return ids, kept


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--raw", default="raw", help="folder of the teacher's runs, a folder each")
    add("--teacher", default="teacher", help="folder of the teacher's tokenizer.json")
    add("--out", default="data", help="data folder to write")
    add("--keep_tokenizer", action="store_true", help="use the tokenizer.json that OUT has")
    add("--tokenizer_stories", type=int, default=60000, help="stories to train the tokenizer on")
    add("--tokenizer_facts", type=int, default=20000, help="facts to train the tokenizer on")
    add("--least_characters", type=int, default=120, help="of a story")
    add("--most_tokens", type=int, default=400, help="of a story")
    add("--least_varied", type=float, default=0.88, help="share of different four-grams")
    add("--seed", type=int, default=3, help="of the stories' order and the tokenizer's facts")
    return parser.parse_args()


def main():
    args = parse_arguments()
    os.makedirs(args.out, exist_ok=True)
    teacher_tokenizer = Tokenizer.from_file(f"{args.teacher}/tokenizer.json")
    stories = read_stories(args.raw, teacher_tokenizer, args.least_characters, args.least_varied)
    rng = random.Random(args.seed)
    rng.shuffle(stories)
    path = f"{args.out}/tokenizer.json"
    if not args.keep_tokenizer:
        texts = tokenizer_texts(stories[: args.tokenizer_stories], rng, args.tokenizer_facts)
        train_tokenizer(texts).save(path)
    tokenizer = Tokenizer.from_file(path)
    ids, finished = tokenize(stories, tokenizer, args.most_tokens)
    story_bank.write_bank(ids, finished, args.out)
    tokens = sum(len(story) for story in ids)
    print(f"{len(ids)} stories, {tokens} tokens, vocabulary {tokenizer.get_vocab_size()}")


if __name__ == "__main__":
    main()
