"""Usage: select_data.py DATA_DIR OUT_DIR COUNT. The cleaner part of the stories, for the last stage: finished, few repeated trigrams, no comments about the story."""

import sys, lzma, re, os, glob
import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import train

src, dst = sys.argv[1], sys.argv[2]
b = train.load_bank(src)
META = re.compile(
    r'[Tt]his story|[Tt]he story|passage|dialogue|[Tt]his tale|narrative|in conclusion|sentences|Explanation|protagonist',
    re.I,
)
txt = None
keep = []
sc = []
for i in range(b.n):
    x = b.ids[b.offs[i] : b.offs[i + 1]].astype(np.int64)
    n = len(x)
    if n < 50:
        continue
    t3 = len(np.unique(x[:-2] * 4096 * 4096 + x[1:-1] * 4096 + x[2:])) / (n - 2)
    t2 = len(np.unique(x[:-1] * 4096 + x[1:])) / (n - 1)
    u = len(np.unique(x)) / n**0.75  # vocabulary for its length
    sc.append(t3 + t2 + 0.5 * min(u, 1.6) + (0.15 if b.fin[i] else 0))
    keep.append(i)
o = np.argsort(-np.array(sc))[: int(sys.argv[3])]
out, lens = [], []
for j in o:
    i = keep[j]
    x = b.ids[b.offs[i] : b.offs[i + 1]]
    t = b.tok.decode(x.tolist())
    if META.search(t):
        continue
    out.append(x)
    lens.append(len(x) if b.fin[i] else -len(x))
p = np.random.RandomState(0).permutation(len(out))
out = [out[i] for i in p]
lens = np.array(lens, np.int32)[p]
ids = np.concatenate(out).astype(np.uint16)
os.makedirs(dst, exist_ok=True)
for f in glob.glob(dst + '/stories*'):
    os.remove(f)
for k, part in enumerate(np.array_split(ids, 2)):
    open(f'{dst}/stories{k}.z', 'wb').write(lzma.compress(part.tobytes(), preset=1))
open(dst + '/offs.z', 'wb').write(lzma.compress(lens.tobytes()))
open(dst + '/tokenizer.json', 'w').write(open(src + '/tokenizer.json').read())
print(len(out), 'stories', len(ids), 'tokens', 'finished', int((lens > 0).sum()))
for i in range(4):
    print('--', b.tok.decode(out[i].tolist()))
