"""Trains the student within a time budget, evaluates recall on fresh documents, measures sparsity, saves to --out."""

import argparse, json, lzma, math, multiprocessing as mp, os, random, sys, time
import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
os.environ['TOKENIZERS_PARALLELISM'] = 'false'


def load_bank(folder):
    from tokenizers import Tokenizer
    import recall

    tok = Tokenizer.from_file(folder + '/tokenizer.json')
    fs = sorted(f for f in os.listdir(folder) if f.startswith('stories') and f.endswith('.z'))
    with mp.get_context('fork').Pool(max(1, len(fs))) as pl:
        parts = pl.map(unz, [folder + '/' + f for f in fs])
    ids = np.frombuffer(b''.join(parts), np.uint16)
    offs = np.frombuffer(
        lzma.decompress(open(folder + '/offs.z', 'rb').read()), np.int32
    )  # lengths
    return recall.Bank(ids, offs, tok)


def unz(f):
    return lzma.decompress(open(f, 'rb').read())


FINE = '--fine' in sys.argv


def plan(R, f):
    """Length of the next batch, by the fraction of the time spent."""
    if f < 0.25:
        return R.choice((512, 512, 1024))
    if f < 0.50:
        return R.choice((512, 1024, 2048, 4096))
    return R.choice(
        (512, 1024, 2048, 4096, 8192, 16384, 16384)
        if f < 1 and not FINE
        else (512, 1024, 1024, 2048, 2048, 4096, 4096, 8192, 16384, 16384)
    )


def worker(bank, seed, q, t0, total, f0, N):
    import recall

    R = random.Random(seed)
    while True:
        f = f0 + (1 - f0) * (time.time() - t0.value) / total if t0.value > 0 else f0
        T = plan(R, f)
        B = max(1, N // T)
        rows = []
        for i in range(B):
            if R.random() < (0.4 if T <= 1024 else 0.25 if T <= 4096 else 0.1):
                rows.append(recall.story_row(R, bank, T))
            else:
                rows.append(recall.recall_row(R, bank, T)[:2])
        q.put((np.stack([r[0] for r in rows]), np.stack([r[1] for r in rows])))


def eval_recall(model, bank, T, n, seed, dev, first_only=False, **kw):
    """Teacher-forced exact match: every token of the answer and the end mark is the argmax. -> per question list."""
    import torch, recall

    R = random.Random(seed)
    res = []
    kinds = {}
    with torch.no_grad():
        for _ in range(n):
            ids, w, qa = recall.recall_row(R, bank, T, middle=False, **kw)
            x = torch.from_numpy(ids.astype(np.int64)).to(dev)[None]
            h = model.trunk(x)
            a = np.flatnonzero(w == 2)
            ok = model.logits(h[torch.from_numpy(a - 1).to(dev)]).argmax(-1).cpu().numpy() == ids[a]
            grp = np.cumsum(np.concatenate([[0], (np.diff(a) > 1).astype(int)]))
            r = [bool(ok[grp == g].all()) for g in range(grp[-1] + 1)]
            res.append(r)
            for (s, q, an), o in zip(qa, r):
                k = (
                    ' '.join(q.split()[:4])
                    if not q.startswith('What is the')
                    else ' '.join(q.split()[3:5])
                )
                kinds.setdefault(k, []).append(o)
    return res, kinds


def val_loss(model, bank, n, dev):
    import torch, recall

    R = random.Random(991)
    tot = 0
    c = 0
    with torch.no_grad():
        for _ in range(n):
            ids, _ = recall.story_row(R, bank, 1024)
            x = torch.from_numpy(ids.astype(np.int64)).to(dev)[None]
            z = model.logits(model.trunk(x))
            tot += torch.nn.functional.cross_entropy(z[:-1], x[0, 1:], reduction='sum').item()
            c += 1023
    return tot / c


def generate(model, ids, n, dev, greedy=True, temp=0.7, seed=0):
    """Slow, by full recomputation; enough to look at stories."""
    import torch

    g = torch.Generator(device=dev)
    g.manual_seed(seed)
    ids = list(ids)
    with torch.no_grad():
        for _ in range(n):
            T = len(ids)
            P = (T + 63) // 64 * 64
            x = torch.full((1, P), 2, device=dev)
            x[0, :T] = torch.tensor(ids, device=dev)
            z = model.logits(model.trunk(x)[T - 1 : T])[0]
            if greedy:
                t = int(z.argmax())
            else:
                p = (z / temp).softmax(-1)
                p[p < 0.05 * p.max()] = 0
                t = int(torch.multinomial(p / p.sum(), 1, generator=g))
            ids.append(t)
            if t == 1:
                break
    return ids


def sparsity(model, bank, T, dev, seed=5):
    """Mean support and empty 64x64 blocks of every layer and head; pages (64 keys) proven empty at decode."""
    import torch, recall, entmax_attention as EA

    R = random.Random(seed)
    ids, w, _ = recall.recall_row(R, bank, T, middle=False)
    x = torch.from_numpy(ids.astype(np.int64)).to(dev)[None]
    c = model.c
    out = []
    ans = torch.from_numpy(np.flatnonzero(w == 2) - 1).to(dev)
    rnd = torch.randint(T * 3 // 4, T, (192,), device=dev)

    def attend(q, k, v, sl):
        o, _, tau, sup = EA.forward(
            q.contiguous(), k.contiguous(), v.contiguous(), sl, stats=True, nit=10
        )
        H, D, G = c['heads'], c['hd'], c['heads'] // c['kv']
        tau = tau.view(H, T)
        sup = sup.view(H, T)
        nb = T // 64
        empty = torch.zeros(H, device=dev)
        kf = k[0].float().repeat_interleave(G, 1).transpose(0, 1)  # H,T,D
        j = torch.arange(T, device=dev)
        step = max(64, min(1024, 2**24 // T // 64 * 64))
        tot = nb * (nb + 1) // 2
        for r0 in range(0, T, step):
            r = torch.arange(r0, min(T, r0 + step), device=dev)
            n = r0 + len(r)
            s = torch.matmul(q[0, r].float().transpose(0, 1), kf[:, :n].transpose(1, 2)) * (
                0.5 * D**-0.5
            )
            s += sl[:, None, None] * 0.5 * (j[:n] - r[:, None])
            s.masked_fill_(j[:n] > r[:, None], -1e30)
            act = (s > tau[:, r, None]).view(H, len(r) // 64, 64, n // 64, 64).any(-1).any(2)
            valid = torch.arange(n // 64, device=dev)[None] <= (r[::64, None] // 64)
            empty += (~act & valid[None]).sum((1, 2))
        pages = k[0].view(nb, 64, c['kv'], D).float()
        mn, mx = pages.amin(1), pages.amax(1)  # nb,HK,D
        res = {}
        for name, rows in (('random', rnd), ('answer', ans)):
            qq = q[0, rows].float()
            qg = qq.view(len(rows), c['kv'], G, D)
            ub = torch.einsum('rkgd,nkd->rkgn', qg.clamp(min=0), mx) + torch.einsum(
                'rkgd,nkd->rkgn', qg.clamp(max=0), mn
            )
            ub = ub.reshape(len(rows), H, nb) * (0.5 * D**-0.5)
            lastk = (torch.arange(nb, device=dev) * 64 + 63)[None, None]
            rr = rows.view(-1, 1, 1)
            ub = ub + sl.view(1, H, 1) * 0.5 * (torch.minimum(lastk, rr) - rr)
            val = lastk - 63 <= rr
            proven = (ub <= tau[:, rows].T[..., None]) & val
            s = torch.matmul(qq.transpose(0, 1), kf.transpose(1, 2)) * (0.5 * D**-0.5) + sl.view(
                H, 1, 1
            ) * 0.5 * (j - rows.view(1, -1, 1))
            s = s.masked_fill(j > rows.view(1, -1, 1), -1e30)
            act = (s > tau[:, rows, None]).view(H, len(rows), nb, 64).any(-1)
            res[name] = dict(
                proven=(proven.sum((0, 2)) / val.sum((0, 2))).tolist(),
                empty=(1 - act.sum((1, 2)) / val.expand(-1, H, -1).sum((0, 2))).tolist(),
                support=sup[:, rows].mean(1).tolist(),
            )
        out.append(
            dict(
                support=sup.mean(1).tolist(),
                support_max=sup.amax(1).tolist(),
                empty=(empty / tot).tolist(),
                pages=res,
            )
        )
        return o

    with torch.no_grad():
        model.trunk(x, attend=attend)
    return out


def main():
    P = argparse.ArgumentParser()
    A = P.add_argument
    A('--data', default=HERE + '/data')
    A('--out', default='.')
    A('--seconds', type=float, default=400)
    A('--N', type=int, default=65536)
    A('--workers', type=int, default=14)
    A('--dev', default='cuda')
    A('--init')
    A('--f0', type=float, default=0.0)
    A('--tiny', action='store_true')
    A('--lr', type=float, default=0.02)
    A('--la', type=float, default=3e-3)
    A('--lam', type=float, default=0.7)
    A('--limit', type=float, default=590)
    A('--eval_only', action='store_true')
    A('--fine', action='store_true')
    A('--decay', type=float, default=0.5)
    A('--steps', type=int, default=10**9)
    a = P.parse_args()
    start = time.time()
    bank = load_bank(a.data)
    print('bank', len(bank.ids), 'tokens', bank.n, 'stories', time.time() - start, flush=True)
    ctx = mp.get_context('fork')
    t0 = ctx.Value('d', 0.0)
    q = ctx.Queue(maxsize=28 if not a.tiny else 2)
    ps = (
        []
        if a.eval_only
        else [
            ctx.Process(
                target=worker,
                args=(bank, 1000 + i + int(a.f0 * 1e6), q, t0, a.seconds, a.f0, a.N),
                daemon=True,
            )
            for i in range(a.workers)
        ]
    )
    for p in ps:
        p.start()
    import torch
    import model as M, entmax_attention as EA

    torch.manual_seed(0)
    torch.set_float32_matmul_precision('high')
    dev = a.dev
    gpu = dev == 'cuda'
    if not gpu:

        class Ref:  # plain torch on the CPU
            apply = staticmethod(EA.reference_train)

        EA.Entmax15Attention = Ref
    else:  # the kernel against sorting
        qq = torch.randn(2, 512, 8, 64, device=dev).bfloat16().requires_grad_()
        kk = torch.randn(2, 512, 4, 64, device=dev).bfloat16().requires_grad_()
        vv = torch.randn(2, 512, 4, 64, device=dev).bfloat16().requires_grad_()
        sl = M.slopes(M.CFG).to(dev)
        g = torch.randn(2, 512, 8, 64, device=dev).bfloat16()
        o = EA.Entmax15Attention.apply(qq * 2, kk, vv, sl)
        o.backward(g)
        G = [t.grad.float().clone() for t in (qq, kk, vv)]
        for t in (qq, kk, vv):
            t.grad = None
        r = EA.reference(qq * 2, kk, vv, sl)
        r.backward(g.float())
        print(
            'kernel check',
            (o - r).abs().max().item(),
            [
                ((x - t.grad.float()).abs().max() / t.grad.float().abs().max()).item()
                for x, t in zip(G, (qq, kk, vv))
            ],
            flush=True,
        )
    net = M.Model(dict(M.CFG, hidden=64, layers=2, ff=128) if a.tiny else M.CFG, compile=gpu).to(
        dev
    )
    print('parameters', sum(p.numel() for p in net.parameters()))
    if a.init:
        net.load_state_dict(load(a.init, dev))
    if not a.eval_only:
        opt = M.Opt(net, a.lr, a.la)
        dt = torch.bfloat16 if gpu else torch.float32
        # compile before the clock starts
        for it in range(2):
            ids, w = q.get()
            run_step(net, opt, ids, w, a.lam, 0.0, dt, dev)
        if gpu:
            torch.cuda.synchronize()
        print('compiled', time.time() - start, flush=True)
        t0.value = time.time()
        n = 0
        tok = 0
        acc = None
        hist = []
        tl = time.time()
        while True:
            el = time.time() - t0.value
            f = a.f0 + (1 - a.f0) * el / a.seconds
            if el > a.seconds or n >= a.steps or time.time() - start > a.limit - 15:
                break
            ids, w = q.get()
            lrf = min(1.0, (n + 1) / 100) * (
                1.0 if f < 1 - a.decay else max(0.02, (1 - f) / a.decay)
            )
            st = run_step(net, opt, ids, w, a.lam, lrf, dt, dev, n % 5 == 0 or a.tiny)
            n += 1
            tok += ids.size
            if st is not None:
                acc = acc or {}
                acc.setdefault(ids.shape[1], []).append(st)
            if acc and (n % 200 == 0 or a.tiny):
                line = {
                    b: [round(v, 3) for v in torch.stack(x).mean(0).tolist()]
                    for b, x in sorted(acc.items())
                }
                acc = None
                if any(v[0] != v[0] for v in line.values()):
                    print('NaN', line)
                    sys.exit(3)
                if n % 2000 == 0:
                    save(net, a.out)
                print(
                    n,
                    f'{el:.0f}s f={f:.2f} {tok / el / 1e3:.0f}k tok/s q={q.qsize()}',
                    line,
                    flush=True,
                )
        print('trained', n, 'steps', tok / 1e6, 'M tokens', time.time() - t0.value, flush=True)
        save(net, a.out)
        for p in ps:
            p.terminate()
    if gpu:
        torch.cuda.empty_cache()
    # evaluate with the bf16 weights that are exported
    ev = M.Model(net.c).to(dev)
    ev.load_state_dict({k: v.bfloat16().float() for k, v in net.state_dict().items()})
    ev.eval()
    if a.tiny:
        ev.trunk_ = ev.trunk
    R = dict()
    left = lambda: a.limit - (time.time() - start)
    if a.tiny:
        print(eval_recall(ev, bank, 512, 2, 7, dev)[0])
        print(val_loss(ev, bank, 1, dev))
        return
    R['val_loss'] = val_loss(ev, bank, 30, dev)
    print('story loss', R['val_loss'], flush=True)

    def rec(T, n):
        if left() < 4 + T / 8000 * n / 12:
            return print('skip', T)
        t1 = time.time()
        res, kinds = eval_recall(
            ev,
            bank,
            T,
            n,
            4242 + T,
            dev,
            nfacts=max(4, min(96, T // 100)),
            nq=4 if T < 1024 else 8,
            kinds=None,
        )
        al = [x for r in res for x in r]
        R[f'recall_{T}'] = dict(
            docs=n,
            questions=len(al),
            exact=sum(al) / len(al),
            first=sum(r[0] for r in res) / n,
            kinds={k: [sum(v), len(v)] for k, v in kinds.items()},
        )
        print(
            T,
            f'exact {sum(al)}/{len(al)} = {sum(al) / len(al):.4f} first {R[f"recall_{T}"]["first"]:.3f} {time.time() - t1:.1f}s',
            {k: f'{sum(v)}/{len(v)}' for k, v in kinds.items() if sum(v) < len(v)},
            flush=True,
        )
        json.dump(R, open(a.out + '/results.json', 'w'))

    def spars(T):
        if left() < 8:
            return print('skip stats', T)
        t1 = time.time()
        R[f'sparsity_{T}'] = sparsity(ev, bank, T, dev)
        print('stats', T, time.time() - t1)
        for l, d in enumerate(R[f'sparsity_{T}']):
            print(
                T,
                'layer',
                l,
                'support',
                [round(x, 1) for x in d['support']],
                'empty',
                [round(x, 3) for x in d['empty']],
                'proven',
                [round(x, 2) for x in d['pages']['random']['proven']],
                flush=True,
            )
        json.dump(R, open(a.out + '/results.json', 'w'))

    rec(2048, 40)
    rec(16384, 40)
    rec(65536, 12)
    spars(16384)
    spars(65536)
    rec(32768, 12)
    rec(131072, 2)
    rec(65536, 20)
    rec(4096, 40)
    rec(8192, 30)
    spars(2048)
    print('done', time.time() - start)


def save(net, out):
    """In pieces under the transfer limit."""
    import io, torch

    b = io.BytesIO()
    torch.save({k: v.detach().cpu() for k, v in net.state_dict().items()}, b)
    b = b.getvalue()
    n = 15 * 2**20
    for i in range(0, len(b), n):
        open(f'{out}/state.pt.{i // n}', 'wb').write(b[i : i + n])


def load(path, dev):
    import glob, io, torch

    return torch.load(
        io.BytesIO(b''.join(open(f, 'rb').read() for f in sorted(glob.glob(path + '.*')))),
        map_location=dev,
    )


def run_step(net, opt, ids, w, lam, lrf, dt, dev, measure=True):
    import torch

    x = torch.from_numpy(ids.astype(np.int64)).to(dev, non_blocking=True)
    W = torch.from_numpy(w).to(dev)
    tgt = torch.zeros_like(x)
    tgt[:, :-1] = x[:, 1:]
    wt = torch.zeros_like(W, dtype=torch.float32)
    lm = (W == 1).float()
    an = (W == 2).float()
    nl, na = lm.sum().clamp(min=1), an.sum().clamp(min=1)
    wt[:, :-1] = (lm / nl + lam * an / na)[:, 1:]
    h = net.trunk(x, dt)
    loss = net.hl(h, net.nf, net.emb, tgt.view(-1), wt.view(-1), net.c['eps'], dt)
    for p in net.parameters():
        p.grad = None
    loss.backward()
    gn = torch.nn.utils.clip_grad_norm_([net.emb, net.nf], 1.0)
    opt.step(lrf)
    if not measure:
        return None
    with torch.no_grad():
        hs = h.detach().view(*x.shape, -1)
        sel = an[:, 1:] > 0
        ha = hs[:, :-1][sel][:2048]
        tg = x[:, 1:][sel][:2048]
        accu = (
            (net.logits(ha, dt).argmax(-1) == tg).float().mean()
            if len(tg)
            else torch.zeros((), device=dev)
        )
    return torch.stack([loss.detach(), accu])


if __name__ == '__main__':
    main()
