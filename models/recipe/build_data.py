"""Usage: build_data.py RAW_DIR (holds N/ids*.z) OUT_DIR [--tok]

Teacher tokens -> clean stories -> byte-level BPE tokenizer of 4096 entries -> token ids."""

import glob, lzma, re, sys, os, json
import numpy as np
from tokenizers import (
    Tokenizer,
    models,
    pre_tokenizers,
    decoders,
    trainers,
    processors,
    Regex,
    AddedToken,
)

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
RAW, OUT = sys.argv[1], sys.argv[2]
SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BAD = re.compile(
    r"[^\x20-\x7e\n]|\*\*|http|As an AI|language model|I'm sorry, but I|Question:|Answer:|<\||\[|\{|Here is a|Here's a|#"
)


def clean(t):
    fin = t.endswith('<|im_end|>')
    t = t.replace('<|im_end|>', '')
    for a, b in (
        ('“', '"'),
        ('”', '"'),
        ('’', "'"),
        ('‘', "'"),
        ('—', ' - '),
        ('–', ' - '),
        ('…', '...'),
        ('é', 'e'),
    ):
        t = t.replace(a, b)
    t = re.sub(r' +', ' ', t)
    t = re.sub(r' *\n\s*', '\n\n', t).strip()
    m = max(t.rfind(x) for x in ('.', '!', '?', '."', '!"', '?"'))
    if m < 0:
        return None
    e = m + 1 + (t[m + 1 : m + 2] == '"')
    if e < len(t):
        fin = False
    t = t[:e]
    if len(t) < 120 or BAD.search(t):
        return None
    if t.count('"') % 2:
        return None
    return t, fin


def main():
    tt = Tokenizer.from_file(HERE + '/smol_tok.json')
    texts = []
    seen = set()
    n = 0
    for f in sorted(glob.glob(RAW + '/*/ids*.z')):
        x = np.frombuffer(lzma.decompress(open(f, 'rb').read()), np.uint16)
        cut = np.flatnonzero(x == 0)
        st = np.concatenate([[0], cut[:-1] + 1])
        segs = [x[a:b].tolist() for a, b in zip(st, cut)]
        segs = [s for s in segs if len(set(zip(s, s[1:], s[2:], s[3:]))) >= 0.88 * (len(s) - 3)]
        for i in range(0, len(segs), 5000):
            for t in tt.decode_batch(segs[i : i + 5000], skip_special_tokens=False):
                n += 1
                c = clean(t)
                if c and c[0][:200] not in seen:
                    seen.add(c[0][:200])
                    texts.append(c)
    print(
        'raw',
        n,
        'kept',
        len(texts),
        'finished',
        sum(f for _, f in texts),
        'chars',
        sum(len(t) for t, _ in texts),
        flush=True,
    )
    import random, recall

    R = random.Random(3)
    R.shuffle(texts)
    if not os.path.exists(OUT + '/tokenizer.json') or '--tok' in sys.argv:
        tok = Tokenizer(models.BPE())
        tok.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(SPLIT), 'isolated'),
                pre_tokenizers.ByteLevel(
                    add_prefix_space=False, trim_offsets=False, use_regex=False
                ),
            ]
        )
        tok.decoder = decoders.ByteLevel()
        sp = ['<|bos|>', '<|eos|>', '<|pad|>']
        facts = []
        for _ in range(20000):
            _, s, q, a = recall.fact(R, R.choice(recall.KINDS))
            facts.append(f'{s}\n\nQuestion: {q}\nAnswer: {a}\n\n')
        tr = trainers.BpeTrainer(
            vocab_size=4096,
            special_tokens=sp,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
            min_frequency=2,
        )
        tok.train_from_iterator([t + '\n\n' for t, _ in texts[:60000]] + facts, tr)
        tok.post_processor = processors.TemplateProcessing(
            single='<|bos|> $A', pair='<|bos|> $A <|bos|> $B', special_tokens=[('<|bos|>', 0)]
        )
        tok.save(OUT + '/tokenizer.json')
    tok = Tokenizer.from_file(OUT + '/tokenizer.json')
    ids = []
    lens = []
    for i in range(0, len(texts), 10000):
        for (t, f), e in zip(
            texts[i : i + 10000],
            tok.encode_batch(
                [t + '\n\n' for t, _ in texts[i : i + 10000]], add_special_tokens=False
            ),
        ):
            if len(e.ids) > 400:
                continue
            ids.append(np.array(e.ids, np.uint16))
            lens.append(len(e.ids) if f else -len(e.ids))
    allids = np.concatenate(ids)
    print(
        'tokens',
        len(allids),
        'stories',
        len(ids),
        'vocab',
        tok.get_vocab_size(),
        'chars/token',
        sum(len(t) for t, _ in texts) / len(allids),
        flush=True,
    )
    from multiprocessing import Pool

    parts = np.array_split(allids, 4)
    for f in glob.glob(OUT + '/stories*.z'):
        os.remove(f)
    with Pool(2) as pl:
        zs = pl.map(lz, [p.tobytes() for p in parts])
    for i, z in enumerate(zs):
        open(f'{OUT}/stories{i}.z', 'wb').write(z)
    open(OUT + '/offs.z', 'wb').write(lz(np.array(lens, np.int32).tobytes()))
    print('bytes', sum(map(len, zs)))


def lz(b):
    return lzma.compress(b, preset=2)


if __name__ == '__main__':
    main()
