"""Compares constraints with independent peers on fresh random ones: regular expressions with Python's `re` (what matches)
and PyPI's `regex` (what a match may begin with), JSON schemas with PyPI's `jsonschema`, whose verdict on the texts that
random walks over the masks give must always be good. With the embedded model's byte-level tokenizer and a SentencePiece
one that is trained here.
"""
import argparse
import json
import pathlib
import random
import re
import string
import subprocess
import tempfile

import jsonschema
import regex
import sentencepiece

ROOT = pathlib.Path(__file__).resolve().parents[3]
REGEX, SCHEMA, JSON_OBJECT = 1, 2, 3
FORMATS = jsonschema.Draft202012Validator.FORMAT_CHECKER
ALPHABET = 'abcAB01 .-"\\é漢😀\n'


class Tool:
    """constraint_tool on the tokenizer of a folder."""

    def __init__(self, tool, folder):
        self.process = subprocess.Popen([tool, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.vocabulary = [bytes.fromhex(token) for token in self.ask({'vocabulary': True})]

    def ask(self, question):
        self.process.stdin.write(json.dumps(question).encode() + b'\n')
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f'the tool ended with {self.process.wait()} at {question}'
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(timeout=60) == 0


def random_class(rng):
    """Never empty: the peer does not see that nothing matches then."""
    items = []
    negated = rng.random() < 0.3
    for _ in range(rng.randrange(1, 4)):
        kind = rng.random()
        if kind < 0.3:
            items.append(rng.choice([r'\d', r'\w', r'\s'] + ([] if negated else [r'\D', r'\W', r'\S'])))
        elif kind < 0.6:
            low, high = sorted(rng.choice('abcdABC012é漢😀') for _ in range(2))
            items.append(f'{low}-{high}')
        else:
            items.append(rng.choice(['a', 'b', ' ', '.', r'\-', r'\\', r'\]', r'\n', '"', 'é', '😀', r'\x41']))
    return '[' + '^' * negated + ''.join(items) + ']'


def random_regex(rng, depth=0, repeated=False):
    """Repetitions are not put into each other: the peers backtrack."""
    kind = rng.random() * (0.75 if repeated else 1)
    if depth > 3 or kind < 0.35:
        return rng.choice(['a', 'b', 'c', 'A', '0', '1', ' ', r'\.', '-', '"', r'\\', 'é', '漢', '😀', r'\n', '.', r'\d',
                           r'\w', r'\s', r'\S', r'\W', 'ab', '01', random_class(rng), random_class(rng)])
    if kind < 0.6:
        return ''.join(random_regex(rng, depth + 1, repeated) for _ in range(rng.randrange(1, 4)))
    if kind < 0.75:
        options = [random_regex(rng, depth + 1, repeated) for _ in range(rng.randrange(2, 4))]
        if rng.random() < 0.1:
            options.append('')
        return rng.choice(['(', '(?:', '(?P<x%d>' % rng.randrange(10 ** 9)]) + '|'.join(options) + ')'
    low = rng.randrange(0, 4)
    count = rng.choice(['*', '+', '?', '{%d}' % low, '{%d,}' % low, '{%d,%d}' % (low, low + rng.randrange(3)), '*?'])
    return '(' + random_regex(rng, depth + 1, True) + ')' + count


def random_string(rng):
    return ''.join(rng.choice(ALPHABET) for _ in range(rng.randrange(0, 9)))


def peer_pattern(pattern):
    """Our dot is ECMAScript's. Only unescaped dots outside of classes are made by random_regex as a single '.'."""
    out, i, in_class = [], 0, False
    while i < len(pattern):
        c = pattern[i]
        if c == '\\':
            out.append(pattern[i:i + 2])
            i += 2
            continue
        in_class = c == '[' or (in_class and c != ']')
        out.append(r'[^\n\r\u2028\u2029]' if c == '.' and not in_class else c)
        i += 1
    return ''.join(out)


def compare_regexes(tools, rng, count):
    compared = masked = 0
    for i in range(count):
        pattern = random_regex(rng)
        peer = peer_pattern(pattern)
        exact, partial = re.compile(peer, re.ASCII), regex.compile(peer, regex.ASCII)
        texts = [random_string(rng) for _ in range(20)]
        tool = tools[i % len(tools)]
        walked = tool.ask({'kind': REGEX, 'text': pattern, 'walks': 2, 'seed': rng.randrange(2 ** 32), 'max_tokens': 5,
                           'allowed': True})
        if 'error' in walked:
            assert 'only the empty text' in walked['error'] and exact.fullmatch(''), (pattern, walked)
            continue
        walks = walked['walks']
        for walk in walks:
            if '\ufffd' in walk['text']:
                continue  # ends inside of a character
            texts += [walk['text'], walk['text'][:-1]]
            assert bool(exact.fullmatch(walk['text'])) == walk['complete'], (pattern, walk)
            if i % 10 == 0:
                check_mask(tool, partial, pattern, walk)
                masked += 1
        answers = tool.ask({'kind': REGEX, 'text': pattern, 'probes': [t.encode().hex() for t in texts]})['probes']
        for text, (live, complete) in zip(texts, answers):
            assert complete == bool(exact.fullmatch(text)), (pattern, text, complete)
            assert live == bool(partial.fullmatch(text, partial=True)), (pattern, text, live)
            compared += 1
    print(f'{compared} strings and {masked} masks of {count} regular expressions agree with re and regex')
    assert compared > 10 * count and masked > 0


def check_mask(tool, partial, pattern, walk):
    """Every token of the vocabulary that is whole characters: allowed if and only if a match may begin so."""
    if not walk['text'] and tool.first_differs:
        return  # where the first token of a text loses its space
    allowed = set(walk['allowed'])
    for token, spelled in enumerate(tool.vocabulary):
        try:
            added = spelled.decode()
        except UnicodeDecodeError:
            continue
        expected = added != '' and bool(partial.fullmatch(walk['text'] + added, partial=True))
        assert expected == (token in allowed), (pattern, walk['text'], added, expected)


PATTERNS = [r'^[a-z]{2,5}$', r'^\d{3}-\d{4}$', 'b+', r'^(yes|no)$', r'"|\\', r'^[^x]*x$', r'\n$|^é', r'^.{1,4}$']
NAMES = ['a', 'b', 'name', 'x/y', 'ä', 'q"uote', 'tab\t', '', 'items', 'nested']


def random_value(rng, depth=0):
    kind = rng.randrange(8 if depth < 2 else 6)
    if kind == 0:
        return None
    if kind == 1:
        return rng.random() < 0.5
    if kind == 2:
        return rng.randrange(-1000, 1000)
    if kind == 3:
        return round(rng.uniform(-10, 10), 3)
    if kind < 6:
        return random_string(rng)
    if kind == 6:
        return [random_value(rng, depth + 1) for _ in range(rng.randrange(3))]
    return {rng.choice(NAMES): random_value(rng, depth + 1) for _ in range(rng.randrange(3))}


def random_schema(rng, depth=0, refs=()):
    kind = rng.randrange(13 if depth < 3 else 8)
    if kind == 0:
        return {'type': rng.choice(['null', 'boolean'])}
    if kind == 1:
        schema = {'type': 'integer'}
        low = rng.choice([-10 ** 6, -123, -10, -1, 0, 1, 7, 99, 1000, 10 ** 17])
        if rng.random() < 0.6:
            schema[rng.choice(['minimum', 'exclusiveMinimum'])] = low
        if rng.random() < 0.6:
            schema[rng.choice(['maximum', 'exclusiveMaximum'])] = low + rng.choice([2, 5, 13, 250, 98765])
        return schema
    if kind == 2:
        schema = {'type': 'number'}
        low = rng.choice([-1000, -101, -5, -1, 0, 1, 9, 100])
        if rng.random() < 0.6:
            schema[rng.choice(['minimum', 'exclusiveMinimum'])] = low
        if rng.random() < 0.6:
            schema[rng.choice(['maximum', 'exclusiveMaximum'])] = low + rng.choice([1, 2, 17, 1234])
        return schema
    if kind in (3, 4):
        schema = {'type': 'string'}
        which = rng.random()
        if which < 0.3:
            schema['minLength'] = rng.randrange(4)
            schema['maxLength'] = schema['minLength'] + rng.randrange(6)
        elif which < 0.6:
            schema['pattern'] = rng.choice(PATTERNS)
        elif which < 0.8:
            schema['format'] = rng.choice(['date', 'time', 'date-time', 'ipv4', 'uuid'])
        return schema
    if kind == 5:
        return {'enum': [random_value(rng) for _ in range(rng.randrange(1, 5))], 'title': 'one of these'}
    if kind == 6:
        return {'const': random_value(rng)}
    if kind == 7:
        return {'$ref': rng.choice(refs)} if refs else {'type': ['string', 'integer', 'null'], 'maxLength': 5}
    if kind == 8:
        return {'anyOf': [random_schema(rng, depth + 1, refs) for _ in range(rng.randrange(1, 4))]}
    if kind == 9:
        schema = {'type': 'array'}
        if rng.random() < 0.8:
            schema['items'] = random_schema(rng, depth + 1, refs)
        if rng.random() < 0.3:
            schema['prefixItems'] = [random_schema(rng, depth + 1, refs) for _ in range(rng.randrange(1, 3))]
        if rng.random() < 0.5:
            schema['minItems'] = rng.randrange(3)
        if rng.random() < 0.6:
            schema['maxItems'] = schema.get('minItems', 0) + rng.randrange(3)
        return schema
    if kind == 10:
        return rng.choice([{}, True, {'type': 'object'}, {'type': 'array', 'maxItems': 2}])
    names = rng.sample(NAMES, rng.randrange(1, 5))
    schema = {'type': 'object', 'properties': {name: random_schema(rng, depth + 1, refs) for name in names}}
    schema['required'] = [name for name in names if rng.random() < 0.6]
    if rng.random() < 0.5:
        schema['additionalProperties'] = rng.choice([True, False, random_schema(rng, depth + 1, refs)])
    return schema


def strict_loads(text):
    def pairs(items):
        return dict(items)

    def constant(name):
        raise ValueError(name)
    return json.loads(text, object_pairs_hook=pairs, parse_constant=constant)


def compare_schemas(tools, rng, count, walks):
    valid = unfinished = unsatisfiable = 0
    for i in range(count):
        schema = random_schema(rng, refs=('#/$defs/leaf', '#/$defs/tree'))
        if isinstance(schema, bool) or '$ref' in schema:
            continue
        schema['$defs'] = {'leaf': random_schema(rng, 2), 'tree': {
            'type': 'object', 'properties': {'value': {'type': 'integer'},
                                             'children': {'type': 'array', 'items': {'$ref': '#/$defs/tree'}}}}}
        jsonschema.Draft202012Validator.check_schema(schema)
        validator = jsonschema.Draft202012Validator(schema, format_checker=FORMATS)
        answer = tools[i % len(tools)].ask({'kind': SCHEMA, 'text': json.dumps(schema), 'walks': walks,
                                            'seed': rng.randrange(2 ** 32), 'max_tokens': 60})
        if 'error' in answer:
            assert re.search('more than|no integer|no number|matches nothing', answer['error']), (schema, answer)
            unsatisfiable += 1
            continue
        for walk in answer['walks']:
            if not walk['complete']:
                unfinished += 1
                continue
            value = strict_loads(walk['text'])
            validator.validate(value)
            valid += 1
    print(f'{valid} texts of random schemas are valid, {unfinished} were not finished, '
          f'{unsatisfiable} schemas were refused')
    assert valid > count and unsatisfiable < count / 4


def compare_values(tool, rng, count):
    """Values that a schema is made from match it, as they are written with and without white space."""
    for _ in range(count):
        value = {rng.choice(NAMES): random_value(rng) for _ in range(rng.randrange(4))}
        texts = [json.dumps(value, ensure_ascii=False, separators=separators, indent=indent)
                 for separators, indent in (((',', ':'), None), ((', ', ': '), None), (None, 2))]
        for kind, text in ((JSON_OBJECT, ''), (SCHEMA, json.dumps({'const': value})), (SCHEMA, '{}')):
            answer = tool.ask({'kind': kind, 'text': text, 'probes': [t.encode().hex() for t in texts]})
            assert answer['probes'] == [[True, True]] * 3, (value, kind, texts, answer)
    print(f'{count} values match where they must')


def train_sentencepiece(folder):
    rng = random.Random(5)
    corpus = folder / 'corpus.txt'
    words = [''.join(rng.choice(string.ascii_lowercase) for _ in range(rng.randrange(1, 8))) for _ in range(400)]
    lines = [' '.join(rng.choice(words + ['{"name": "a"}', '[1, 2.5, true]', 'null', 'é漢']) for _ in range(12))
             for _ in range(2000)]
    corpus.write_text('\n'.join(lines))
    sentencepiece.SentencePieceTrainer.train(input=str(corpus), model_prefix=str(folder / 'tokenizer'), vocab_size=1000,
                                             byte_fallback=True, character_coverage=0.999, model_type='bpe',
                                             minloglevel=2)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('tool')
    parser.add_argument('--regexes', type=int, default=400)
    parser.add_argument('--schemas', type=int, default=300)
    parser.add_argument('--seed', type=int, default=random.randrange(2 ** 32))
    arguments = parser.parse_args()
    print('seed', arguments.seed)
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        train_sentencepiece(folder)
        tools = [Tool(arguments.tool, ROOT / 'models' / 'recall-9m'), Tool(arguments.tool, folder)]
        tools[0].first_differs, tools[1].first_differs = False, True
        compare_regexes(tools, rng, arguments.regexes)
        compare_values(tools[1], rng, 60)
        compare_schemas(tools, rng, arguments.schemas, 4)
        for tool in tools:
            tool.close()


if __name__ == '__main__':
    main()
