"""reference.json (float32 torch, weights rounded to bf16) and the prompts. Usage: make_reference.py STATE_PREFIX DATA_DIR MODELS_DIR"""

import json, os, random, sys, glob, io

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import numpy as np, torch
import train, recall, model as M, entmax_attention as EA
from tokenizers import Tokenizer


def attend(q, k, v, sl, off=0):  # Newton from the left, float32, in chunks of queries
    B, T, H, D = q.shape
    kk = k.repeat_interleave(H // k.shape[2], 2)[0].transpose(0, 1)
    vv = v.repeat_interleave(H // k.shape[2], 2)[0].transpose(0, 1)
    o = []
    j = torch.arange(k.shape[1])
    for r in range(0, T, 128):
        i = off + torch.arange(r, min(T, r + 128))
        n = int(i[-1]) + 1
        s = torch.matmul(q[0, r : r + 128].transpose(0, 1), kk[:, :n].transpose(1, 2)) * (
            0.5 * D**-0.5
        ) + 0.5 * sl.view(-1, 1, 1) * (j[:n] - i[:, None])
        s = s.masked_fill(j[:n] > i[:, None], -1e9)
        tau = s.amax(-1, keepdim=True) - 1
        for _ in range(14):
            g = (s - tau).clamp(min=0)
            tau = tau + ((g * g).sum(-1, keepdim=True) - 1) / (2 * g.sum(-1, keepdim=True))
        o.append(((s - tau).clamp(min=0) ** 2 @ vv[:, :n]).transpose(0, 1))
    return torch.cat(o)[None]


def cached(net, ids, cache):
    """One forward in float32 with a key/value cache; -> last logits."""
    off = cache[0][0].shape[1] if cache[0] else 0
    c = net.c
    T = len(ids)
    H, A = c['heads'], c['alibi']
    x = net.emb[torch.tensor(ids)]
    ll = torch.log(torch.log(off + torch.arange(T).float() + 2))
    for l, m in enumerate(net.L):
        q, k, v = M.pre(
            x,
            m.n1,
            m.wq,
            m.wk,
            m.wv,
            m.wbg,
            ll,
            H,
            A,
            c['hd'],
            c['delta'],
            c['grange'],
            c['eps'],
            torch.float32,
        )
        k = k.view(1, T, c['kv'], c['hd'])
        v = v.view(1, T, c['kv'], c['hd'])
        if cache[l]:
            k, v = torch.cat([cache[l][0], k], 1), torch.cat([cache[l][1], v], 1)
        cache[l] = (k, v)
        a = attend(q.view(1, T, H, c['hd']), k, v, net.slopes, off)
        x = M.post(x, a.reshape(T, -1), m.wo, m.n2, m.wg, m.wu, m.wd, c['eps'], torch.float32)
    return net.logits(x[-1:], torch.float32)[0]


def greedy(net, ids, n, stop=True):
    cache = [None] * len(net.L)
    z = cached(net, ids, cache)
    first = z
    out = []
    for _ in range(n):
        t = int(z.argmax())
        out.append(t)
        if stop and t == 1:
            break
        z = cached(net, [t], cache)
    return first, out


def main():
    torch.set_grad_enabled(False)
    src, data, out = sys.argv[1:4]
    bank = train.load_bank(data)
    tok = bank.tok
    net = M.Model()
    net.load_state_dict({k: v.bfloat16().float() for k, v in train.load(src, 'cpu').items()})

    def prompt(R, T, nf):
        ids, w, qa = recall.recall_row(R, bank, T, nfacts=nf, nq=1, middle=False)
        a = int(np.flatnonzero(w == 2)[0])
        return tok.decode(ids[1:a].tolist(), skip_special_tokens=False), ids[:a].tolist(), qa[0]

    R = random.Random(77)
    allp = {}
    for name, T, n, nf in (('2k', 2048, 12, 20), ('16k', 16384, 8, 64), ('64k', 65536, 5, 96)):
        with open(f'{out}/prompts/recall-{name}.jsonl', 'w') as f:
            for i in range(n):
                t, ids, (s, q, a) = prompt(R, T, nf)
                assert tok.encode(t).ids == ids
                p = dict(id=f'{name}-{i}', tokens=len(ids), question=q, answer=a, fact=s, prompt=t)
                f.write(json.dumps(p) + '\n')
                allp.setdefault(name, []).append((p, ids))
    print('prompts written', flush=True)
    res = []
    short = [
        ('fox', 'Once upon a time, there was a little fox named Mira. One day,'),
        ('look', '"Look!" said Tom.'),
        ('mill', 'In the old mill, there lived'),
        (
            'colour',
            'Mira likes the colour teal best. Oscar likes the colour violet best.\n\nQuestion: What is the favourite colour of Mira?\nAnswer:',
        ),
        (
            'code',
            'Note: the code of the blue lighthouse is 48213. The code of the blue mill is 90177.\n\nQuestion: What is the code of the blue lighthouse?\nAnswer:',
        ),
        ('recall-2k', allp['2k'][0][0]['prompt']),
    ]
    for name, t in short:
        ids = tok.encode(t).ids
        z, g = greedy(net, ids, 32, stop=False)
        v, i = z.topk(20)
        res.append(
            dict(
                name=name,
                prompt=t,
                ids=ids,
                top=[[int(a), float(b)] for a, b in zip(i, v)],
                greedy=g,
                greedy_text=tok.decode(g, skip_special_tokens=False),
            )
        )
        print(name, len(ids), res[-1]['greedy_text'][:150].replace('\n', '\\n'), flush=True)
    json.dump(
        dict(
            note='Weights bf16, arithmetic float32. ids include the leading <|bos|>. top: token, logit of the last position. greedy: 32 tokens, going on after <|eos|>.',
            prompts=res,
        ),
        open(out + '/recall-9m/reference.json', 'w'),
    )
    ok = 0
    for p, ids in allp['2k']:
        _, g = greedy(net, ids, 24)
        t = tok.decode(g, skip_special_tokens=True).strip()
        ok += t == p['answer']
        if t != p['answer']:
            print('wrong', p['id'], p['question'], p['answer'], t)
    print('2k prompts right', ok, 'of', len(allp['2k']), flush=True)
    for p, ids in allp['16k'][: int(sys.argv[4]) if len(sys.argv) > 4 else 8]:
        _, g = greedy(net, ids, 24)
        print(
            p['id'], p['answer'], '|', tok.decode(g, skip_special_tokens=True).strip(), flush=True
        )


if __name__ == '__main__':
    main()
