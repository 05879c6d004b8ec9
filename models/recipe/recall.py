"""The grammar of the recall documents: facts as a statement, a question about it, and its answer.

Reads and writes no files. Every function named in KINDS draws one fact from a random.Random, with
the words of words.py; in every statement the key comes before the value. The order of the draws is
part of the recipe: equal seeds give equal documents.
"""

from typing import NamedTuple

import words

DIGITS = "0123456789"
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"


class Fact(NamedTuple):
    """One fact. `key` says what it is about; no two facts of a document have the same."""

    key: tuple
    statement: str
    question: str
    answer: str


def with_article(noun):
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def draw_digits(rng, count):
    return "".join(rng.choice(DIGITS) for _ in range(count))


def code(rng):
    adjective = rng.choice(words.ADJECTIVES)
    place = rng.choice(words.PLACES)
    value = draw_digits(rng, rng.choice((3, 4, 5, 5, 5, 6)))
    what = rng.choice(("code", "code", "secret number", "key code"))
    statement = rng.choice(
        (
            f"The {what} of the {adjective} {place} is {value}.",
            f"Remember that the {what} of the {adjective} {place} is {value}.",
            f"By the way, the {what} of the {adjective} {place} is {value}.",
            f"Note: the {what} of the {adjective} {place} is {value}.",
        )
    )
    question = f"What is the {what} of the {adjective} {place}?"
    return Fact(("code", what, adjective, place), statement, question, value)


def keeps(rng):
    name = rng.choice(words.NAMES)
    item = rng.choice(words.ITEMS)
    spot = rng.choice(words.SPOTS)
    place = rng.choice(words.PLACES)
    statement = rng.choice(
        (
            f"{name} keeps the {item} in the {spot} of the {place}.",
            f"The {item} of {name} is in the {spot} of the {place}.",
            f"{name} has hidden the {item} in the {spot} of the {place}.",
        )
    )
    question = rng.choice(
        (f"Where does {name} keep the {item}?", f"Where is the {item} of {name}?")
    )
    return Fact(("keeps", name, item), statement, question, f"in the {spot} of the {place}")


def colour(rng):
    name = rng.choice(words.NAMES)
    value = rng.choice(words.COLOURS)
    statement = rng.choice(
        (f"The favourite colour of {name} is {value}.", f"{name} likes the colour {value} best.")
    )
    return Fact(("colour", name), statement, f"What is the favourite colour of {name}?", value)


def food(rng):
    name = rng.choice(words.NAMES)
    value = rng.choice(words.FOODS)
    statement = rng.choice(
        (f"The favourite food of {name} is {value}.", f"{name} likes to eat {value} most of all.")
    )
    return Fact(("food", name), statement, f"What is the favourite food of {name}?", value)


def pet(rng):
    name = rng.choice(words.NAMES)
    animal = rng.choice(words.PETS)
    value = rng.choice(words.PET_NAMES)
    statement = rng.choice(
        (
            f"{name} has {with_article(animal)} named {value}.",
            f"The {animal} of {name} is called {value}.",
        )
    )
    return Fact(
        ("pet", name, animal), statement, f"What is the name of the {animal} of {name}?", value
    )


def job(rng):
    name = rng.choice(words.NAMES)
    value = rng.choice(words.JOBS)
    place = rng.choice(words.PLACES)
    adjective = rng.choice(words.ADJECTIVES)
    statement = rng.choice(
        (
            f"{name} works as {with_article(value)} at the {adjective} {place}.",
            f"{name} is {with_article(value)} by trade.",
        )
    )
    return Fact(("job", name), statement, f"What is the job of {name}?", value)


def lives(rng):
    name = rng.choice(words.NAMES)
    adjective = rng.choice(words.ADJECTIVES)
    place = rng.choice(words.PLACES)
    statement = rng.choice(
        (
            f"{name} lives next to the {adjective} {place}.",
            f"The house of {name} is next to the {adjective} {place}.",
        )
    )
    answer = f"next to the {adjective} {place}"
    return Fact(("lives", name), statement, f"Where does {name} live?", answer)


def count(rng):
    adjective = rng.choice(words.ADJECTIVES)
    place = rng.choice(words.PLACES)
    things = rng.choice(words.THINGS)
    value = str(rng.randint(2, 999))
    statement = rng.choice(
        (
            f"The number of {things} in the {adjective} {place} is {value}.",
            f"In the {adjective} {place}, the number of {things} is {value}.",
            f"Inside the {adjective} {place}, someone counted the {things}: {value}.",
        )
    )
    question = f"How many {things} are in the {adjective} {place}?"
    return Fact(("count", adjective, place, things), statement, question, value)


def locker(rng):
    number = draw_digits(rng, 4)
    name = rng.choice(words.NAMES)
    statement = rng.choice(
        (f"Locker {number} belongs to {name}.", f"The owner of locker {number} is {name}.")
    )
    return Fact(("locker", number), statement, f"Who owns locker {number}?", name)


def password(rng):
    adjective = rng.choice(words.ADJECTIVES)
    place = rng.choice(words.PLACES)
    animal = rng.choice(words.ANIMALS)
    colour_word = rng.choice(words.COLOURS)
    value = "-".join((animal, colour_word, rng.choice(words.ITEMS)))
    statement = rng.choice(
        (
            f"The password of the {adjective} {place} is {value}.",
            f"To open the {adjective} {place}, say {value}.",
        )
    )
    question = f"What is the password of the {adjective} {place}?"
    return Fact(("password", adjective, place), statement, question, value)


def record(rng):
    first = rng.choice(LETTERS)
    digit = rng.choice(DIGITS)
    name = first + digit + rng.choice(LETTERS)
    value = draw_digits(rng, 5)
    statement = rng.choice(
        (f"Record {name} has the value {value}.", f"The value of record {name} is {value}.")
    )
    return Fact(("record", name), statement, f"What is the value of record {name}?", value)


def birthday(rng):
    name = rng.choice(words.NAMES)
    day = rng.randint(1, 28)
    date = f"{day} {rng.choice(words.MONTHS)}"
    statement = rng.choice((f"The birthday of {name} is on {date}.", f"{name} was born on {date}."))
    return Fact(("birthday", name), statement, f"When is the birthday of {name}?", "on " + date)


FUNCTIONS = (code, keeps, colour, food, pet, job, lives, count, locker, password, record, birthday)
FUNCTION_OF_KIND = {function.__name__: function for function in FUNCTIONS}
# What a document draws its facts from: codes and hiding places are more frequent than the others.
KINDS = (
    "code code code keeps keeps colour food pet job lives count locker password record birthday"
).split()


def draw_fact(rng, kind):
    """-> a Fact of one of KINDS."""
    return FUNCTION_OF_KIND[kind](rng)
