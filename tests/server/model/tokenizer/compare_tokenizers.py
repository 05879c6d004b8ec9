"""Compares our tokenizers id for id with PyPI's `tokenizers` and `sentencepiece` on fresh random strings.

Besides the embedded model's tokenizer, small ones are trained here with the pre-tokenizers that models in use have. The
text decoded from random ids, at once and as a stream, is compared as well.
"""
import argparse
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import unicodedata

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r'\p{N}{1,3}', r'\p{N}')

SPACES = ' \t\n\r\x0b\x0c\x1c\x85\xa0\u1680\u180e\u2000\u2003\u200a\u200b\u2028\u2029\u202f\u205f\u3000'
PIECES = ["'s", "'T", "'LL", "'re", "don't", 'I’m', '123456', '3.14', '٣٤', '½', '①', 'Ⅷ', 'e\u0301',
          'a\u0308\u0323', '\u1e9b\u0323', '가각', '\u1100\u1161', '👩‍👩‍👧‍👦', '🇩🇪', '漢字かな', 'नमस्ते', 'العربية',
          'ſ', 'K', 'ﬁ', '<|bos|>', '<|eos|>', '<|special|>', '<|wide|>', 'added word', '</s>', '<s>', 'x=y;',
          'for (int i = 0; i < n; i++) {\n\t', '\r\n\r\n', '   ', '...', '!!!', '\x00', '\x7f', '\ufeff',
          '\ufffd', '_', '__init__', 'ÀÉÎ', 'ß', 'İ', 'ǆ', '\U0001d54f', '\U000e0041']


def known(char):
    """Leaves out characters that the implementations' Unicode versions disagree on.

    What came after Unicode 14 is a letter to the peer and unassigned to Debian's PCRE2 (and to this Python); the peer's
    normalizer, on the other hand, is older and does not reorder newer combining marks.
    """
    new = unicodedata.category(char) in ('Cn', 'Cs')
    new_mark = unicodedata.combining(char) and unicodedata.ucd_3_2_0.category(char) == 'Cn'
    return '?' if new or new_mark else char


def random_text(rng, words):
    """A string of words, odd pieces, white space and code points of all planes."""
    out = []
    for _ in range(rng.randrange(1, 12)):
        kind = rng.random()
        if kind < 0.4:
            out.append(rng.choice(words))
        elif kind < 0.6:
            out.append(rng.choice(PIECES))
        elif kind < 0.75:
            out.append(''.join(rng.choice(SPACES) for _ in range(rng.randrange(1, 4))))
        elif kind < 0.85:
            out.append(''.join(chr(rng.randrange(32, 127)) for _ in range(rng.randrange(1, 8))))
        else:
            for _ in range(rng.randrange(1, 5)):
                plane = rng.choice((0x300, 0x800, 0x3000, 0xffff, 0x10ffff))
                out.append(known(chr(rng.randrange(1, plane))))
        if rng.random() < 0.5:
            out.append(' ')
    return ''.join(out)


class Ours:
    """The C++ tokenizer behind a pipe."""

    def __init__(self, tool, folder):
        self.process = subprocess.Popen([tool, str(folder)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)

    def ask(self, questions):
        data = ''.join(json.dumps(q) + '\n' for q in questions).encode()
        out, _ = self.process.communicate(data, timeout=300)
        assert self.process.returncode == 0, f'the tool ended with {self.process.returncode}'
        return [json.loads(line) for line in out.decode().split('\n') if line]


def compare(name, tool, folder, encode, decode, vocab, texts, rng, always_skip=False):
    """Asks for all texts, and for random ids; returns how many comparisons were made."""
    ids = []
    for _ in range(len(texts) // 4):
        ids.append([rng.randrange(vocab) for _ in range(rng.randrange(1, 12))])
    questions = [{'text': t, 'special': i % 2 == 0} for i, t in enumerate(texts)]
    questions += [{'ids': x, 'skip': always_skip or i % 2 == 0} for i, x in enumerate(ids)]
    answers = Ours(tool, folder).ask(questions)
    assert len(answers) == len(questions)
    for question, answer in zip(questions, answers):
        if 'text' in question:
            expected = encode(question['text'], question['special'])
            assert answer == expected, f'{name}: {question}\nours {answer}\npeer {expected}'
        else:
            decoded, streamed = answer
            expected = decode(question['ids'], question['skip'])
            assert decoded == expected, f'{name}: {question}\nours {decoded!r}\npeer {expected!r}'
            assert streamed == decoded, f'{name}: {question}\nstreamed {streamed!r}\nat once {decoded!r}'
    print(f'{name}: {len(texts)} texts, {len(ids)} id lists equal', flush=True)
    return len(texts)


def hugging_face(tool, folder, name, texts, rng):
    peer = Tokenizer.from_file(str(folder / 'tokenizer.json'))
    return compare(name, tool, folder,
                   lambda t, special: peer.encode(t, add_special_tokens=special).ids,
                   lambda ids, skip: peer.decode(ids, skip_special_tokens=skip),
                   peer.get_vocab_size(), texts, rng)


def train_json(corpus, pre_tokenizer, normalizer, ignore_merges, folder):
    """A byte-level BPE tokenizer.json with added tokens of every kind."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=1200, special_tokens=['<|bos|>', '<|eos|>'],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_special_tokens([AddedToken('<|special|>', lstrip=True, rstrip=True, special=True)])
    tokenizer.add_tokens([AddedToken('<|wide|>', normalized=False), AddedToken('added word'),
                          AddedToken('word', single_word=True)])
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single='<|bos|> $A <|eos|>', pair='$A $B',
                                      special_tokens=[('<|bos|>', 0), ('<|eos|>', 1)])])
    folder.mkdir()
    tokenizer.save(str(folder / 'tokenizer.json'))


def train_sentencepiece(corpus, kind, folder):
    folder.mkdir()
    (folder / 'corpus.txt').write_text('\n'.join(corpus))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / 'corpus.txt'), model_prefix=str(folder / 'tokenizer'), vocab_size=900,
        model_type=kind, byte_fallback=True, character_coverage=0.995, minloglevel=2,
        remove_extra_whitespaces=kind == 'unigram',
        normalization_rule_name='identity' if kind == 'bpe' else 'nmt_nfkc')


def sentencepiece_texts(texts, controls):
    """Control symbols spelled in a text are tokens to us and plain text to the library."""
    return [t for t in texts if not any(c in t for c in controls) and '\x00' not in t]


def unsupported_json(folder, added):
    """A tokenizer.json beside tokenizer.model, of a kind that we don't read, as converters write it."""
    tokens = [{'id': i, 'content': content, 'special': True} for i, content in added]
    (folder / 'tokenizer.json').write_text(json.dumps(
        {'added_tokens': tokens, 'model': {'type': 'BPE', 'byte_fallback': True}}))


def expect_refused(tool, folder, *parts):
    done = subprocess.run([tool, folder], input='', capture_output=True, text=True, timeout=60)
    assert done.returncode != 0, folder
    for part in parts:
        assert part in done.stderr, (part, done.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('tool')
    parser.add_argument('--seed', type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument('--texts', type=int, default=2000, help='for each tokenizer')
    args = parser.parse_args()
    print('seed', args.seed, flush=True)
    rng = random.Random(args.seed)
    lines = [json.loads(line)['prompt'] for line in open('models/prompts/recall-2k.jsonl')]
    words = sorted(set(' '.join(lines).split()))
    corpus = [line for text in lines for line in text.split('\n') if line]
    corpus += [random_text(random.Random(i), words) for i in range(300)]
    corpus = [c.replace('\x00', '').replace('\r', ' ').replace('\n', ' ') for c in corpus]
    work = pathlib.Path(tempfile.mkdtemp())
    byte_level = pre_tokenizers.ByteLevel

    def split(pattern):
        return pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(pattern), 'isolated'),
            byte_level(add_prefix_space=False, use_regex=False)])

    kinds = {
        'gpt2': (byte_level(add_prefix_space=False), None, False),
        'prefix-space': (byte_level(add_prefix_space=True), None, False),
        'llama3': (split(LLAMA3), None, True),
        'qwen2': (split(QWEN2), normalizers.NFC(), False),
        'smollm2': (pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                             byte_level(add_prefix_space=False)]), None, False),
    }
    checked = 0
    try:
        texts = [random_text(rng, words) for _ in range(args.texts)] + lines[:2]
        checked += hugging_face(args.tool, pathlib.Path('models/recall-9m'), 'recall-9m', texts, rng)
        for name, (pre, normalizer, ignore_merges) in kinds.items():
            folder = work / name
            train_json(corpus, pre, normalizer, ignore_merges, folder)
            texts = [random_text(rng, words) for _ in range(args.texts)]
            checked += hugging_face(args.tool, folder, name, texts, rng)
        for kind in ('bpe', 'unigram'):
            folder = work / kind
            train_sentencepiece(corpus, kind, folder)
            peer = sentencepiece.SentencePieceProcessor(model_file=str(folder / 'tokenizer.model'))
            texts = [random_text(rng, words) for _ in range(args.texts)]
            texts = sentencepiece_texts(texts, ('<s>', '</s>', '<unk>'))

            def encode(text, special):
                return ([peer.bos_id()] if special else []) + peer.encode(text)

            # The library leaves control symbols out of decoded text whatever it is asked.
            unsupported_json(folder, [(900, '<|added|>')])
            expect_refused(args.tool, folder, 'byte_fallback', '<|added|>', '900')
            unsupported_json(folder, [(1, '<s>'), (2, '</s>')])
            checked += compare('sentencepiece-' + kind, args.tool, folder, encode,
                               lambda ids, skip: peer.decode(ids), peer.get_piece_size(), texts,
                               rng, always_skip=True)
    finally:
        shutil.rmtree(work)
    assert checked >= 10000, checked
    print(checked, 'texts compared', flush=True)


if __name__ == '__main__':
    os.environ['TOKENIZERS_PARALLELISM'] = 'false'
    sys.exit(main())
