"""Training rows: stories alone, or a recall document, which is stories with facts and questions.

Reads and writes no files. A row is `length` tokens (uint16) and as many weights (uint8), which say
what each token is as a target: PLAIN text, part of an ANSWER, or NOTHING. Rows are drawn from a
random.Random and a story_bank.StoryBank; equal seeds and banks give equal rows.
"""

from typing import NamedTuple

import numpy as np

from recall import KINDS, draw_fact

BOS, EOS, PAD = 0, 1, 2  # tokens <|bos|>, <|eos|>, <|pad|>
NOTHING, PLAIN, ANSWER = 0, 1, 2
MIN_FILLER_TOKENS = 60
INLINE_SHARE = 0.7  # of the facts: behind a sentence, in the same paragraph


class Span(NamedTuple):
    tokens: list
    weights: list


class Insertion(NamedTuple):
    """A span that goes into the filler; sorted by its first three members."""

    position: int
    order: int  # facts before questions
    tie: float
    span: Span


def plain_span(tokens):
    return Span(tokens, [PLAIN] * len(tokens))


def join(spans):
    return Span(
        [token for span in spans for token in span.tokens],
        [weight for span in spans for weight in span.weights],
    )


def story_row(rng, bank, length):
    """BOS story EOS BOS story EOS ..., cut at `length` -> tokens, weights.

    A story that the teacher left unfinished gets no EOS.
    """
    tokens, weights = [], []
    count = 0
    while count < length:
        i = rng.randrange(bank.count)
        story = bank.story(i)
        last = bank.without_line_end.get(int(story[-1]), [int(story[-1])])
        piece = np.concatenate([[BOS], story[:-1], last, [EOS] if bank.finished[i] else []])
        weight = np.full(len(piece), PLAIN)
        weight[0] = NOTHING
        tokens.append(piece)
        weights.append(weight)
        count += len(piece)
    return (
        np.concatenate(tokens)[:length].astype(np.uint16),
        np.concatenate(weights)[:length].astype(np.uint8),
    )


def draw_fact_count(rng, length):
    """Log-uniform between 2 and one fact for every 80 tokens."""
    low, high = 2, max(4, length // 80)
    return int(round(low * (high / low) ** rng.random()))


def draw_kinds(rng):
    """All kinds by their frequency, or, in half of the documents, one to four kinds only."""
    if rng.random() < 0.5:
        return rng.sample(sorted(set(KINDS)), rng.choice((1, 2, 3, 4)))
    return KINDS


def draw_facts(rng, count, kinds):
    """Facts of different keys; fewer than `count` if the kinds don't have as many."""
    facts = {}
    tries = 0
    while len(facts) < count and tries < 4 * count + 20:
        fact = draw_fact(rng, rng.choice(kinds))
        facts.setdefault(fact.key, fact)
        tries += 1
    return list(facts.values())


def draw_question_count(rng, fact_count, length):
    choices = (1, 2, 4, 6, 8, 12) if length > 600 else (1, 2, 3, 4)
    return min(fact_count, rng.choice(choices))


def question_span(bank, fact):
    question = bank.encode(f"Question: {fact.question}\nAnswer:")
    answer = bank.encode(" " + fact.answer) + [EOS]
    return Span(question + answer, [PLAIN] * len(question) + [ANSWER] * len(answer))


def final_questions(bank, facts):
    """The questions at the end of a document, a blank line between them."""
    blank_line = plain_span(bank.encode("\n\n"))
    spans = []
    for fact in facts:
        spans += [blank_line, question_span(bank, fact)]
    return join(spans[1:])


def draw_early_questions(rng, bank, facts, count, room, least_room):
    """Questions for the middle of a document that leave `least_room` for the stories.

    -> (number of the fact, span) of each, and the room that is left.
    """
    blank_line = plain_span(bank.encode("\n\n"))
    questions = []
    for _ in range(count):
        i = rng.randrange(len(facts))
        span = join([question_span(bank, facts[i]), blank_line])
        if room - len(span.tokens) > least_room:
            questions.append((i, span))
            room -= len(span.tokens)
    return questions, room


def draw_filler(rng, bank, room):
    """Stories of at most `room` tokens, cut behind a paragraph; None if no paragraph ends."""
    stories = []
    count = 0
    while count < room:
        story = bank.draw_story(rng)
        stories.append(story)
        count += len(story)
    filler = np.concatenate(stories)[:room].astype(np.int64)
    ends = np.flatnonzero(bank.ends_paragraph[filler])
    return filler[: ends[-1] + 1] if len(ends) else None


def place_facts(rng, bank, filler, forms):
    """Each fact goes behind a sentence (first form) or behind a paragraph (second form)."""
    paragraphs = np.flatnonzero(bank.ends_paragraph[filler]) + 1
    sentences = bank.ends_sentence[filler[:-1]] & bank.begins_word[filler[1:]]
    sentences = np.flatnonzero(sentences) + 1
    insertions = []
    for inline, paragraph in forms:
        if len(sentences) and rng.random() < INLINE_SHARE:
            position = int(sentences[rng.randrange(len(sentences))])
            tokens = inline
        else:
            position = int(paragraphs[rng.randrange(len(paragraphs))])
            tokens = paragraph
        insertions.append(Insertion(position, 1, rng.random(), plain_span(tokens)))
    return insertions


def place_questions(rng, bank, filler, questions, placed_facts):
    """Each early question goes behind a paragraph that comes after its fact, if there is one."""
    paragraphs = np.flatnonzero(bank.ends_paragraph[filler]) + 1
    insertions = []
    for i, span in questions:
        after = paragraphs[paragraphs > placed_facts[i].position]
        if len(after):
            position = int(after[rng.randrange(len(after))])
            insertions.append(Insertion(position, 2, rng.random(), span))
    return insertions


def assemble(filler, insertions, tail, length):
    """BOS, the filler with its insertions, the final questions, padding -> tokens, weights."""
    tokens, weights = [[BOS]], [[PLAIN]]
    start = 0
    for insertion in sorted(insertions, key=lambda insertion: insertion[:3]):
        end = insertion.position
        tokens += [filler[start:end], insertion.span.tokens]
        weights += [np.full(end - start, PLAIN), insertion.span.weights]
        start = end
    tokens += [filler[start:], tail.tokens]
    weights += [np.full(len(filler) - start, PLAIN), tail.weights]
    padding = length - sum(len(piece) for piece in tokens)
    assert padding >= 0, padding
    tokens.append(np.full(padding, PAD))
    weights.append(np.full(padding, NOTHING))
    return np.concatenate(tokens).astype(np.uint16), np.concatenate(weights).astype(np.uint8)


def recall_row(rng, bank, length, fact_count=None, question_count=None, kinds=None, early=True):
    """A document of `length` tokens -> tokens, weights, the facts asked for at its end, in order.

    early: some questions may also be asked, and answered, in the middle. What is None is drawn. A
    document whose facts leave no room for stories is drawn again with half of them.
    """
    if fact_count is None:
        fact_count = draw_fact_count(rng, length)
    if kinds is None:
        kinds = draw_kinds(rng)
    facts = draw_facts(rng, fact_count, kinds)
    if question_count is None:
        question_count = draw_question_count(rng, len(facts), length)
    asked = [facts[i] for i in rng.sample(range(len(facts)), question_count)]
    early_count = rng.choice((0, 0, 1, 2)) if early and length >= 1024 else 0

    tail = final_questions(bank, asked)
    # Facts in both forms; the filler is what is left.
    forms = [(bank.encode(" " + f.statement), bank.encode(f.statement + "\n\n")) for f in facts]
    room = length - 1 - len(tail.tokens) - sum(max(len(a), len(b)) for a, b in forms)
    early_questions, room = draw_early_questions(
        rng, bank, facts, early_count, room, least_room=length // 3
    )
    if room < MIN_FILLER_TOKENS:
        return recall_row(rng, bank, length, max(1, fact_count // 2), None, kinds, early)
    filler = draw_filler(rng, bank, room)
    if filler is None:
        return recall_row(rng, bank, length, fact_count, question_count, kinds, early)

    placed = place_facts(rng, bank, filler, forms)
    insertions = placed + place_questions(rng, bank, filler, early_questions, placed)
    tokens, weights = assemble(filler, insertions, tail, length)
    return tokens, weights, asked
