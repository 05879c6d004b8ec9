"""Samples short stories from the teacher (SmolLM2-135M-Instruct, GGUF Q4_1/Q8_0 weights) with continuous batching.

Every row of a large batch holds one conversation at its own position; prompts are fed token by token, and a row that
ends takes the next prompt at once. The tokens fed are logged: rows are cut into conversations afterwards.
"""

import argparse, json, os, random, sys, time
import numpy as np, torch

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import words as W
import triton, triton.language as tl

D, H, HK, DH, FF, L, V, EPS, THETA = 576, 9, 3, 64, 1536, 30, 49152, 1e-5, 100000.0
IM_START, IM_END = 1, 2


def load_weights(parts, index, dev, dtype):
    blob = torch.from_numpy(np.concatenate([np.fromfile(p, np.uint8) for p in parts]))
    out = {}
    for name, e in json.load(open(index)).items():
        raw = blob[e['off'] : e['off'] + e['n']].to(dev)
        if e['type'] == 'F32':
            w = raw.clone().view(torch.float32)
        elif e['type'] == 'Q8_0':
            b = raw.view(-1, 34)
            w = (
                b[:, :2].contiguous().view(torch.float16).float()
                * b[:, 2:].contiguous().view(torch.int8).float()
            )
        elif e['type'] == 'Q4_1':
            b = raw.view(-1, 20)
            d = b[:, :2].contiguous().view(torch.float16).float()
            m = b[:, 2:4].contiguous().view(torch.float16).float()
            q = torch.cat([b[:, 4:] & 15, b[:, 4:] >> 4], 1).float()
            w = q * d + m
        out[name] = w.reshape(e['shape']).to(dtype)
    return out


@triton.jit
def add_norm_kernel(
    x, y, w, o, D: tl.constexpr, BD: tl.constexpr, ADD: tl.constexpr, EPS: tl.constexpr
):
    r = tl.program_id(0)
    i = tl.arange(0, BD)
    m = i < D
    a = tl.load(x + r * D + i, m, 0.0).to(tl.float32)
    if ADD:
        a += tl.load(y + r * D + i, m, 0.0).to(tl.float32)
        tl.store(x + r * D + i, a, m)
    s = tl.sum(a * a) / D
    tl.store(
        o + r * D + i,
        (a * tl.rsqrt(s + EPS) * tl.load(w + i, m, 0.0).to(tl.float32)).to(o.dtype.element_ty),
        m,
    )


@triton.jit
def silu_mul_kernel(x, o, F: tl.constexpr, BF: tl.constexpr):
    r = tl.program_id(0)
    i = tl.arange(0, BF)
    m = i < F
    g = tl.load(x + r * 2 * F + i, m, 0.0).to(tl.float32)
    u = tl.load(x + r * 2 * F + F + i, m, 0.0).to(tl.float32)
    tl.store(o + r * F + i, (g / (1 + tl.exp(-g)) * u).to(o.dtype.element_ty), m)


@triton.jit
def rope_cache_kernel(qkv, pos, cs, q, kc, vc, S, H: tl.constexpr, HK: tl.constexpr):
    b = tl.program_id(0).to(tl.int64)
    p = tl.load(pos + b)
    i = tl.arange(0, 32)
    h = tl.arange(0, 16)
    c = tl.load(cs + p * 64 + i)[None, :]
    s = tl.load(cs + p * 64 + 32 + i)[None, :]
    m = (h < H + HK)[:, None] & (i < 32)[None, :]
    base = qkv + b * (H + 2 * HK) * 64 + h[:, None] * 64 + 2 * i[None, :]
    x0 = tl.load(base, m, 0.0).to(tl.float32)
    x1 = tl.load(base + 1, m, 0.0).to(tl.float32)
    y0 = (x0 * c - x1 * s).to(q.dtype.element_ty)
    y1 = (x0 * s + x1 * c).to(q.dtype.element_ty)
    mq = (h < H)[:, None] & (i < 32)[None, :]
    qo = q + b * H * 64 + h[:, None] * 64 + 2 * i[None, :]
    tl.store(qo, y0, mq)
    tl.store(qo + 1, y1, mq)
    mk = ((h >= H) & (h < H + HK))[:, None] & (i < 32)[None, :]
    ko = kc + ((b * HK + h[:, None] - H) * S + p) * 64 + 2 * i[None, :]
    tl.store(ko, y0, mk)
    tl.store(ko + 1, y1, mk)
    j = tl.arange(0, 64)
    g = tl.arange(0, 4)
    mv = (g < HK)[:, None] & (j < 64)[None, :]
    v = tl.load(qkv + b * (H + 2 * HK) * 64 + (H + HK + g[:, None]) * 64 + j[None, :], mv, 0.0)
    tl.store(vc + ((b * HK + g[:, None]) * S + p) * 64 + j[None, :], v, mv)


@triton.jit
def decode_attn_kernel(
    q, kc, vc, pos, o, S, H: tl.constexpr, HK: tl.constexpr, G: tl.constexpr, BN: tl.constexpr
):
    pid = tl.program_id(0).to(tl.int64)
    b = pid // HK
    hk = pid % HK
    n = tl.load(pos + b) + 1
    r = tl.arange(0, 16)
    i = tl.arange(0, 64)
    t = tl.arange(0, BN)
    mr = (r < G)[:, None] & (i < 64)[None, :]
    off = b * H * 64 + (hk * G + r[:, None]) * 64 + i[None, :]
    qq = tl.load(q + off, mr, 0.0)
    m = tl.full([16], -1e30, tl.float32)
    l = tl.zeros([16], tl.float32)
    acc = tl.zeros([16, 64], tl.float32)
    kb = kc + pid * S * 64
    vb = vc + pid * S * 64
    for s in range(0, n, BN):
        mt = s + t < n
        k = tl.load(kb + (s + t)[None, :] * 64 + i[:, None], mt[None, :], 0.0)
        a = tl.dot(qq, k) * 0.125
        a = tl.where(mt[None, :], a, -1e30)
        mn = tl.maximum(m, tl.max(a, 1))
        f = tl.exp(m - mn)
        p = tl.exp(a - mn[:, None])
        l = l * f + tl.sum(p, 1)
        v = tl.load(vb + (s + t)[:, None] * 64 + i[None, :], mt[:, None], 0.0)
        acc = acc * f[:, None] + tl.dot(p.to(v.dtype), v)
        m = mn
    tl.store(o + off, (acc / l[:, None]).to(o.dtype.element_ty), mr)


@triton.jit
def sample_kernel(logits, step, out, V, INVT, LOGMINP, BN: tl.constexpr):
    b = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BN)
    m = -1e30
    for s in range(0, V, BN):
        m = tl.maximum(m, tl.max(tl.load(logits + b * V + s + i).to(tl.float32)))
    best = -1e30
    arg = 0
    seed = tl.load(step)
    for s in range(0, V, BN):
        x = (tl.load(logits + b * V + s + i).to(tl.float32) - m) * INVT
        u = tl.rand(seed, (b * V + s + i).to(tl.int32))
        g = -tl.log(-tl.log(u + 1e-10) + 1e-10)
        z = tl.where(x > LOGMINP, x + g, -1e30)
        zm = tl.max(z)
        za = tl.argmax(z, 0)
        arg = tl.where(zm > best, s + za, arg)
        best = tl.maximum(best, zm)
    tl.store(out + b, arg)


@triton.jit
def penalty_kernel(logits, hist, pos, start, V, S, PEN, BS: tl.constexpr, NG: tl.constexpr):
    """Repetition penalty on the answer's tokens, and no repeated NG-gram (NG = 4)."""
    b = tl.program_id(0).to(tl.int64)
    p = tl.load(pos + b)
    st = tl.load(start + b)
    i = tl.arange(0, BS)
    h = hist + b * S
    t = tl.load(h + i, i <= p, 0)
    seen = (i >= st) & (i <= p)
    l = tl.load(logits + b * V + t, seen, 0.0).to(tl.float32)
    tl.debug_barrier()
    tl.store(logits + b * V + t, tl.where(l > 0, l / PEN, l * PEN), seen)
    tl.debug_barrier()
    a0 = tl.load(h + p - 2, p >= 2, -1)
    a1 = tl.load(h + p - 1, p >= 1, -1)
    a2 = tl.load(h + p)
    full = (i >= st) & (i + 3 <= p)
    m = (
        full
        & (t == a0)
        & (tl.load(h + i + 1, full, -2) == a1)
        & (tl.load(h + i + 2, full, -2) == a2)
    )
    nx = tl.load(h + i + 3, m, 0)
    tl.store(logits + b * V + nx, -1e30, m)


class Teacher:
    def __init__(s, w, B, S, dev, dtype, use_triton):
        s.B, s.S, s.dev, s.tri, s.dtype = B, S, dev, use_triton, dtype
        s.emb = w['token_embd.weight']
        s.fin = w['output_norm.weight']
        s.layers = []
        for l in range(L):
            g = lambda n: w[f'blk.{l}.{n}.weight']
            s.layers.append(
                (
                    g('attn_norm'),
                    torch.cat([g('attn_q'), g('attn_k'), g('attn_v')]),
                    g('attn_output'),
                    g('ffn_norm'),
                    torch.cat([g('ffn_gate'), g('ffn_up')]),
                    g('ffn_down'),
                )
            )
        s.kc = [torch.zeros(B, HK, S, DH, device=dev, dtype=dtype) for _ in range(L)]
        s.vc = [torch.zeros(B, HK, S, DH, device=dev, dtype=dtype) for _ in range(L)]
        ang = (
            torch.arange(S, device=dev).float()[:, None]
            * (THETA ** (-torch.arange(0, 64, 2, device=dev).float() / 64))[None]
        )
        s.cs = torch.cat([ang.cos(), ang.sin()], 1).contiguous()

    def norm(s, x, y, w):
        if s.tri:
            o = torch.empty_like(x, dtype=s.dtype)
            add_norm_kernel[(s.B,)](x, y if y is not None else x, w, o, D, 1024, y is not None, EPS)
            return o
        if y is not None:
            x += y
        f = x.float()
        return (f * torch.rsqrt(f.pow(2).mean(-1, keepdim=True) + EPS) * w.float()).to(s.dtype)

    def step(s, tok, pos):
        x = s.emb[tok].float()
        y = None
        ar = torch.arange(s.B, device=s.dev)
        for l, (n1, wqkv, wo, n2, wgu, wd) in enumerate(s.layers):
            qkv = s.norm(x, y, n1) @ wqkv.T
            if s.tri:
                q = torch.empty(s.B, H * DH, device=s.dev, dtype=s.dtype)
                a = torch.empty_like(q)
                rope_cache_kernel[(s.B,)](qkv, pos, s.cs, q, s.kc[l], s.vc[l], s.S, H, HK)
                decode_attn_kernel[(s.B * HK,)](
                    q, s.kc[l], s.vc[l], pos, a, s.S, H, HK, H // HK, 64
                )
            else:
                t = qkv.view(s.B, H + 2 * HK, 64)
                r = t[:, : H + HK].float().reshape(s.B, H + HK, 32, 2)
                c = s.cs[pos, None, :32]
                si = s.cs[pos, None, 32:]
                r = (
                    torch.stack(
                        [r[..., 0] * c - r[..., 1] * si, r[..., 0] * si + r[..., 1] * c], -1
                    )
                    .reshape(s.B, H + HK, 64)
                    .to(s.dtype)
                )
                s.kc[l][ar, :, pos] = r[:, H:]
                s.vc[l][ar, :, pos] = t[:, H + HK :]
                sc = (
                    torch.einsum(
                        'bkgd,bksd->bkgs', r[:, :H].reshape(s.B, HK, 3, 64).float(), s.kc[l].float()
                    )
                    / 8
                )
                sc = sc.masked_fill(
                    (torch.arange(s.S, device=s.dev)[None] > pos[:, None])[:, None, None], -1e30
                )
                a = (
                    torch.einsum('bkgs,bksd->bkgd', sc.softmax(-1), s.vc[l].float())
                    .reshape(s.B, -1)
                    .to(s.dtype)
                )
            y = a @ wo.T
            gu = s.norm(x, y, n2) @ wgu.T
            if s.tri:
                hh = torch.empty(s.B, FF, device=s.dev, dtype=s.dtype)
                silu_mul_kernel[(s.B,)](gu, hh, FF, 2048)
            else:
                hh = (torch.nn.functional.silu(gu[:, :FF].float()) * gu[:, FF:].float()).to(s.dtype)
            y = hh @ wd.T
        return s.norm(x, y, s.fin) @ s.emb.T


ACTS = """finds a lost {i}|loses a {i} and looks for it|wants to learn how to swim|helps a lost {a}|builds a small house|is afraid of the dark|makes a new friend|plants a strange seed|gets lost in the fog|shares the last piece of bread|tells a lie and then is sorry|wants to win a race|finds a door behind a {i}|bakes a big cake|hears a strange noise at night|saves a {a} from the rain|cannot fall asleep|learns to be patient|goes on a long trip by boat|meets a talking {a}|repairs an old {i}|has a very bad day|wants to touch the moon|gives a {i} as a present|opens a small shop|finds a map|is jealous of a {a}|wakes up very early|catches a cold|forgets an important promise|says sorry to a friend|paints the whole {p}|searches for the missing {a}|has a birthday party|climbs to the top of the {p}|learns to play the {i}|keeps a secret|discovers a tiny village|has to cross a river|collects {t}|trades a {i} for some {f}|sees snow for the first time|wants to be brave|fixes the {p} after a storm|is too proud|cooks {f} for everyone|teaches a {a} to dance|follows footprints in the sand|waits for a letter|guards the {p} for one night""".split(
    '|'
)
OPEN = """Once upon a time, there was a {c} named {n}. One day,|{n} was a {c} who lived near the {p}.|One morning, {n} the {c}|It was raining, and {n} the {c}|In a {d} {p}, there lived a {c} called {n}.|{n} the {c} loved {f} more than anything.|"Look!" said {n}.|Every day, {n} the {c} walked to the {p}.|On a cold {w}, {n} the {c}|Long ago, a {c} named {n}|{n} woke up and saw a {a}.|The sun was shining over the {d} {p}.|There was once a {c} who had a {d} {i}.|"I have an idea," said {n} the {c}.|{n} and {m} were best friends.|Far away, by a {d} {p}, {n} the {c}|{n} had never seen a {a} before.|At the {p}, everyone knew {n} the {c}.|Last {w}, {n} the {c}|Deep in the forest,""".split(
    '|'
)
ASK = [
    "Write a short story for young children about a {c} named {n} who {x}. Use simple words.",
    "Tell a simple bedtime story: {n} the {c} {x}. Keep it short.",
    "Write a very short story in easy English. {n} is a {c}. {n} {x}. It has a {e} ending.",
    "Tell a short story with some dialogue. {n} the {c} {x}. Use short, simple sentences.",
]
QA = [
    "Explain in two or three simple sentences to a child: {q}",
    "{q} Answer in a few simple sentences.",
    "A child asks: {q} Give a short and friendly answer.",
]
TOPICS = (
    [
        f'Why do we need {t}?'
        for t in 'sleep|water|trees|bees|books|friends|rain|shoes|rules|doctors|schools|farmers|bridges|maps|clocks|money|soap|bread|sunlight|salt|fire|wind|teachers|music|games|stories|gardens|boats|lamps|roofs'.split(
            '|'
        )
    ]
    + [f'What is a {t}?' for t in W.ANIMALS + W.PLACES + W.ITEMS + W.JOBS]
    + [f'What do {t} taste like?' for t in W.FOODS]
    + [f'How does a {t} live?' for t in W.ANIMALS]
    + [f'What does a {t} do all day?' for t in W.JOBS]
    + [f'What can you do with a {t}?' for t in W.ITEMS]
)


def make_prompts(n, seed):
    R = random.Random(seed)
    out = []
    for _ in range(n):
        if R.random() < 0.08:
            q = R.choice(TOPICS)
            u = R.choice(QA).format(q=q)
            a = ''
        else:
            c = R.choice(W.ANIMALS if R.random() < 0.45 else W.PEOPLE)
            if R.random() < 0.5:
                c = (
                    R.choice(
                        'little old young small kind clever lazy brave shy happy sad curious tiny grumpy busy quiet lonely funny'.split()
                    )
                    + ' '
                    + c
                )
            f = dict(
                c=c,
                n=R.choice(W.NAMES),
                m=R.choice(W.NAMES),
                a=R.choice(W.ANIMALS),
                p=R.choice(W.PLACES),
                d=R.choice(W.ADJ),
                i=R.choice(W.ITEMS),
                t=R.choice(W.THINGS),
                f=R.choice(W.FOODS),
                w=R.choice(
                    'morning evening winter summer autumn spring night Monday Sunday'.split()
                ),
                e=R.choice('happy funny surprising sad quiet good'.split()),
            )
            f['x'] = R.choice(ACTS).format(**f)
            u = R.choice(ASK).format(**f)
            a = R.choice(OPEN).format(**f) if R.random() < 0.85 else ''
        out.append(f'<|im_start|>user\n{u}<|im_end|>\n<|im_start|>assistant\n{a}')
    return out


def main():
    P = argparse.ArgumentParser()
    P.add_argument('--parts', nargs=2)
    P.add_argument('--B', type=int, default=4096)
    P.add_argument('--S', type=int, default=352)
    P.add_argument('--seconds', type=float, default=180)
    P.add_argument('--steps', type=int, default=10**9)
    P.add_argument('--out', default='.')
    P.add_argument('--dev', default='cuda')
    P.add_argument('--prompts', type=int, default=260000)
    P.add_argument('--temp', type=float, default=0.8)
    P.add_argument('--minp', type=float, default=0.06)
    P.add_argument('--pen', type=float, default=1.1)
    P.add_argument('--seed', type=int, default=1)
    a = P.parse_args()
    t0 = time.time()
    dev = a.dev
    gpu = dev == 'cuda'
    from tokenizers import Tokenizer

    tk = Tokenizer.from_file(HERE + '/smol_tok.json')
    enc = [e.ids for e in tk.encode_batch(make_prompts(a.prompts, a.seed))]
    PL = 112
    enc = [e for e in enc if len(e) <= PL]
    pool = np.zeros((len(enc), PL), np.int32)
    for i, e in enumerate(enc):
        pool[i, : len(e)] = e
    pool = torch.from_numpy(pool).to(dev)
    plen = torch.tensor([len(e) for e in enc], dtype=torch.int32, device=dev)
    print('prompts', len(enc), 'mean len', plen.float().mean().item(), time.time() - t0, flush=True)
    dt = torch.bfloat16 if gpu else torch.float32
    w = load_weights(a.parts, HERE + '/index.json', dev, dt)
    B, S = a.B, a.S
    if gpu:  # the kernels against plain torch on a small batch
        xs = torch.randint(3, 40000, (12, 64), device=dev)
        A, Bm = Teacher(w, 64, 64, dev, dt, True), Teacher(w, 64, 64, dev, dt, False)
        for t in range(12):
            pp = torch.full((64,), t, dtype=torch.int64, device=dev)
            la = A.step(xs[t], pp)
            lb = Bm.step(xs[t], pp)
        print(
            'kernel check: max diff',
            (la - lb).abs().max().item(),
            'of',
            lb.abs().max().item(),
            flush=True,
        )
        del A, Bm
    T = Teacher(w, B, S, dev, dt, gpu)
    row = torch.arange(B, device=dev)
    pos = torch.zeros(B, dtype=torch.int64, device=dev)
    nxt = torch.full((1,), B, dtype=torch.int64, device=dev)
    tok = pool[row, 0].to(torch.int64)
    stepn = torch.zeros(1, dtype=torch.int32, device=dev)
    samp = torch.empty(B, dtype=torch.int64, device=dev)
    NP = len(enc)
    hist = torch.zeros(B, S, dtype=torch.int32, device=dev)
    ar = torch.arange(B, device=dev)

    def step():
        logits = T.step(tok, pos)
        hist[ar, pos] = tok.to(torch.int32)
        start = plen[row]
        if gpu:
            penalty_kernel[(B,)](
                logits, hist, pos, start, V, S, a.pen, triton.next_power_of_2(S), 4
            )
        else:
            for b in range(B):
                p = int(pos[b])
                h = hist[b].tolist()
                s0 = int(start[b])
                u = list(set(h[s0 : p + 1]))
                l = logits[b, u]
                logits[b, u] = torch.where(l > 0, l / a.pen, l * a.pen)
                for i in range(s0, p - 2):
                    if h[i : i + 3] == h[p - 2 : p + 1]:
                        logits[b, h[i + 3]] = -1e30
        if gpu:
            sample_kernel[(B,)](logits, stepn, samp, V, 1 / a.temp, float(np.log(a.minp)), 4096)
        else:
            z = (logits - logits.max(-1, keepdim=True).values) / a.temp
            z[z < np.log(a.minp)] = -1e30
            samp.copy_(torch.multinomial(z.softmax(-1), 1)[:, 0])
        done = (tok == IM_END) & (pos >= plen[row]) | (pos >= S - 1)
        k = torch.cumsum(done.to(torch.int64), 0)
        row.copy_(torch.where(done, (nxt + k - 1) % NP, row))
        nxt.add_(k[-1:])
        pos.copy_(torch.where(done, torch.zeros_like(pos), pos + 1))
        inp = pool[row, pos.clamp(max=PL - 1)].to(torch.int64)
        tok.copy_(torch.where(pos < plen[row], inp, samp))
        stepn.add_(1)

    if gpu:
        st = torch.cuda.Stream()
        st.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(st):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(st)
        # start over: every row at its prompt's first token, with staggered ends so that rows do not run in lockstep
        row.copy_(torch.arange(B, device=dev))
        pos.zero_()
        nxt.fill_(B)
        tok.copy_(pool[row, 0].to(torch.int64))
        g = torch.cuda.CUDAGraph()
        with torch.cuda.graph(g):
            step()
        run = g.replay
    else:
        run = step
    log = []
    CH = 64
    buf = torch.zeros(CH, B, dtype=torch.int32, device=dev)
    n = 0
    t1 = time.time()
    print('ready', t1 - t0, flush=True)
    while time.time() - t1 < a.seconds and n < a.steps:
        for i in range(CH):
            buf[i].copy_(tok)
            run()
        log.append(buf.cpu().numpy().astype(np.uint16))
        n += CH
        if n % 1024 == 0 or not gpu:
            print(
                n,
                f'{n * B / (time.time() - t1):.0f} tok/s',
                'prompts used',
                nxt.item(),
                time.time() - t1,
                flush=True,
            )
    log = np.concatenate(log)  # [steps, B]
    print('steps', n, 'tokens', log.size, time.time() - t1, flush=True)
    # cut rows into conversations; keep (answer tokens incl. opening) with IM_END where it ended by itself
    flat = np.ascontiguousarray(log.T)
    import multiprocessing as mp, lzma

    with mp.get_context('fork').Pool(14 if gpu else 2, cut_init, (flat,)) as pl:
        res = pl.map(cut_row, range(B), chunksize=16)
    outs = [o for r in res for o in r[0]]
    print(
        'conversations',
        sum(r[1] for r in res),
        'ended',
        sum(r[2] for r in res),
        'kept',
        len(outs),
        time.time() - t0,
    )
    o = np.concatenate(outs)
    cap = 58 * 1024 * 1024
    parts = np.array_split(o, max(1, min(8, 1 + len(o) * 2 // (14 * 1024 * 1024))))
    tot = 0
    with mp.get_context('fork').Pool(8) as pl:
        zs = pl.map(lz, [p.tobytes() for p in parts])
    for i, z in enumerate(zs):
        tot += len(z)
        print('part', i, len(parts[i]), 'tokens', len(z), 'bytes')
        if tot < cap and len(z) < 16 * 1024 * 1024:
            open(f'{a.out}/ids{i}.z', 'wb').write(z)
    for i in range(6):
        print('----', tk.decode(outs[i * 997 % len(outs)].tolist(), skip_special_tokens=False))
    print('total', time.time() - t0)


def lz(b):
    import lzma

    return lzma.compress(b, preset=1)


def cut_init(f):
    global FLAT
    FLAT = f


def cut_row(r):
    x = FLAT[r]
    st = np.flatnonzero(x == IM_START)
    outs = []
    n = ended = 0
    us = [i for i in st if tuple(x[i : i + 3]) == (1, 4093, 198)]
    as_ = [i for i in st if tuple(x[i : i + 4]) == (1, 520, 9531, 198)]
    for j, i in enumerate(us):
        e = us[j + 1] if j + 1 < len(us) else len(x)
        aa = [q for q in as_ if i < q < e]
        if len(aa) != 1 or e - aa[0] < 40:
            continue
        seg = x[aa[0] + 4 : e]
        n += 1
        ended += int(seg[-1] == IM_END)
        l = seg.tolist()
        g = len(set(zip(l, l[1:], l[2:], l[3:]))) / (len(l) - 3)
        if g < 0.85:
            continue  # repetitive
        outs.append(np.concatenate([seg, np.zeros(1, np.uint16)]))
    return outs, n, ended


if __name__ == '__main__':
    main()
