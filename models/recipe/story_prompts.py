"""The prompts that make the teacher tell stories.

Reads and writes no files. A prompt is a request (most are for a story, some for an explanation) in
the teacher's chat format, and in most cases the first words of the answer. The order of the draws
is part of the recipe: equal seeds give equal prompts.
"""

import random

import words

EVENTS = (
    "finds a lost {item}",
    "loses a {item} and looks for it",
    "wants to learn how to swim",
    "helps a lost {animal}",
    "builds a small house",
    "is afraid of the dark",
    "makes a new friend",
    "plants a strange seed",
    "gets lost in the fog",
    "shares the last piece of bread",
    "tells a lie and then is sorry",
    "wants to win a race",
    "finds a door behind a {item}",
    "bakes a big cake",
    "hears a strange noise at night",
    "saves a {animal} from the rain",
    "cannot fall asleep",
    "learns to be patient",
    "goes on a long trip by boat",
    "meets a talking {animal}",
    "repairs an old {item}",
    "has a very bad day",
    "wants to touch the moon",
    "gives a {item} as a present",
    "opens a small shop",
    "finds a map",
    "is jealous of a {animal}",
    "wakes up very early",
    "catches a cold",
    "forgets an important promise",
    "says sorry to a friend",
    "paints the whole {place}",
    "searches for the missing {animal}",
    "has a birthday party",
    "climbs to the top of the {place}",
    "learns to play the {item}",
    "keeps a secret",
    "discovers a tiny village",
    "has to cross a river",
    "collects {things}",
    "trades a {item} for some {food}",
    "sees snow for the first time",
    "wants to be brave",
    "fixes the {place} after a storm",
    "is too proud",
    "cooks {food} for everyone",
    "teaches a {animal} to dance",
    "follows footprints in the sand",
    "waits for a letter",
    "guards the {place} for one night",
)

OPENINGS = (
    "Once upon a time, there was a {character} named {name}. One day,",
    "{name} was a {character} who lived near the {place}.",
    "One morning, {name} the {character}",
    "It was raining, and {name} the {character}",
    "In a {adjective} {place}, there lived a {character} called {name}.",
    "{name} the {character} loved {food} more than anything.",
    '"Look!" said {name}.',
    "Every day, {name} the {character} walked to the {place}.",
    "On a cold {time}, {name} the {character}",
    "Long ago, a {character} named {name}",
    "{name} woke up and saw a {animal}.",
    "The sun was shining over the {adjective} {place}.",
    "There was once a {character} who had a {adjective} {item}.",
    '"I have an idea," said {name} the {character}.',
    "{name} and {friend} were best friends.",
    "Far away, by a {adjective} {place}, {name} the {character}",
    "{name} had never seen a {animal} before.",
    "At the {place}, everyone knew {name} the {character}.",
    "Last {time}, {name} the {character}",
    "Deep in the forest,",
)

STORY_REQUESTS = (
    "Write a short story for young children about a {character} named {name} who {event}. "
    "Use simple words.",
    "Tell a simple bedtime story: {name} the {character} {event}. Keep it short.",
    "Write a very short story in easy English. {name} is a {character}. {name} {event}. "
    "It has a {ending} ending.",
    "Tell a short story with some dialogue. {name} the {character} {event}. "
    "Use short, simple sentences.",
)

QUESTION_REQUESTS = (
    "Explain in two or three simple sentences to a child: {question}",
    "{question} Answer in a few simple sentences.",
    "A child asks: {question} Give a short and friendly answer.",
)

NEEDS = """sleep water trees bees books friends rain shoes rules doctors schools farmers bridges
maps clocks money soap bread sunlight salt fire wind teachers music games stories gardens boats
lamps roofs""".split()
TEMPERS = """little old young small kind clever lazy brave shy happy sad curious tiny grumpy busy
quiet lonely funny""".split()
TIMES = "morning evening winter summer autumn spring night Monday Sunday".split()
ENDINGS = "happy funny surprising sad quiet good".split()

THINGS_TO_EXPLAIN = words.ANIMALS + words.PLACES + words.ITEMS + words.JOBS

QUESTIONS = (
    [f"Why do we need {thing}?" for thing in NEEDS]
    + [f"What is a {thing}?" for thing in THINGS_TO_EXPLAIN]
    + [f"What do {food} taste like?" for food in words.FOODS]
    + [f"How does a {animal} live?" for animal in words.ANIMALS]
    + [f"What does a {job} do all day?" for job in words.JOBS]
    + [f"What can you do with a {item}?" for item in words.ITEMS]
)

EXPLANATION_SHARE = 0.08
ANIMAL_SHARE = 0.45  # of the characters
TEMPER_SHARE = 0.5  # of the characters
OPENING_SHARE = 0.85  # of the stories


def draw_character(rng):
    character = rng.choice(words.ANIMALS if rng.random() < ANIMAL_SHARE else words.PEOPLE)
    if rng.random() < TEMPER_SHARE:
        character = rng.choice(TEMPERS) + " " + character
    return character


def draw_story(rng):
    """-> the request and the answer's first words, which may be empty."""
    fields = {"character": draw_character(rng)}
    fields["name"] = rng.choice(words.NAMES)
    fields["friend"] = rng.choice(words.NAMES)
    fields["animal"] = rng.choice(words.ANIMALS)
    fields["place"] = rng.choice(words.PLACES)
    fields["adjective"] = rng.choice(words.ADJECTIVES)
    fields["item"] = rng.choice(words.ITEMS)
    fields["things"] = rng.choice(words.THINGS)
    fields["food"] = rng.choice(words.FOODS)
    fields["time"] = rng.choice(TIMES)
    fields["ending"] = rng.choice(ENDINGS)
    fields["event"] = rng.choice(EVENTS).format(**fields)
    request = rng.choice(STORY_REQUESTS).format(**fields)
    opening = rng.choice(OPENINGS).format(**fields) if rng.random() < OPENING_SHARE else ""
    return request, opening


def draw_question(rng):
    question = rng.choice(QUESTIONS)
    return rng.choice(QUESTION_REQUESTS).format(question=question)


def draw_prompts(count, seed):
    """-> texts of `count` conversations, each up to where the teacher goes on."""
    rng = random.Random(seed)
    prompts = []
    for _ in range(count):
        if rng.random() < EXPLANATION_SHARE:
            request, opening = draw_question(rng), ""
        else:
            request, opening = draw_story(rng)
        user = f"<|im_start|>user\n{request}<|im_end|>\n"
        prompts.append(f"{user}<|im_start|>assistant\n{opening}")
    return prompts
