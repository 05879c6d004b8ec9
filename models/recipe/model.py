"""The student: Llama block without rotary, NAPE heads (ALiBi | NoPE with ASEntmax scaling), entmax-1.5 attention."""

import math
import torch, torch.nn as nn, torch.nn.functional as F
import entmax_attention as EA

CFG = dict(
    vocab=4096,
    hidden=320,
    layers=6,
    heads=8,
    kv=4,
    hd=64,
    ff=896,
    alibi=4,
    delta=1.0,
    grange=1.0,
    eps=1e-5,
)


def slopes(c):
    return torch.tensor([2.0**-i for i in range(c['alibi'])] + [0.0] * (c['heads'] - c['alibi']))


def rms(x, w, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * w


def pre(
    x,
    n1,
    wq,
    wk,
    wv,
    wbg,
    loglog,
    H: int,
    A: int,
    D: int,
    delta: float,
    grange: float,
    eps: float,
    dt: torch.dtype,
):
    h = rms(x, n1, eps).to(dt)
    q = (h @ wq.to(dt).T).view(-1, H, D)
    k = h @ wk.to(dt).T
    v = h @ wv.to(dt).T
    bg = (h @ wbg.to(dt).T).float()
    nb = H - A
    sc = delta + F.softplus(bg[:, :nb]) * torch.exp(
        grange * torch.tanh(bg[:, nb:]) * loglog[:, None]
    )
    q = torch.cat([q[:, :A], (q[:, A:].float() * sc[..., None]).to(dt)], 1)
    return q, k, v


def post(x, a, wo, n2, wg, wu, wd, eps: float, dt: torch.dtype):
    x = x + (a @ wo.to(dt).T).float()
    h = rms(x, n2, eps).to(dt)
    return x + ((F.silu(h @ wg.to(dt).T) * (h @ wu.to(dt).T)) @ wd.to(dt).T).float()


def head_loss(x, nf, emb, tgt, w, eps: float, dt: torch.dtype):
    z = (rms(x, nf, eps).to(dt) @ emb.to(dt).T).float()
    return (F.cross_entropy(z, tgt, reduction='none') * w).sum()


class Model(nn.Module):
    def __init__(s, c=CFG, compile=False):
        super().__init__()
        s.c = c
        C, D = c['hidden'], c['hd']
        g = lambda o, i, std=None: nn.Parameter(
            torch.randn(o, i) * (i**-0.5 * 0.6 if std is None else std)
        )
        s.emb = g(c['vocab'], C, 0.05)
        s.nf = nn.Parameter(torch.ones(C))
        s.L = nn.ModuleList()
        for _ in range(c['layers']):
            m = nn.Module()
            m.n1 = nn.Parameter(torch.ones(C))
            m.n2 = nn.Parameter(torch.ones(C))
            m.wq = g(c['heads'] * D, C)
            m.wk = g(c['kv'] * D, C)
            m.wv = g(c['kv'] * D, C)
            m.wo = g(C, c['heads'] * D, 0.0)
            m.wbg = g(2 * (c['heads'] - c['alibi']), C, 0.01)
            m.wg = g(c['ff'], C)
            m.wu = g(c['ff'], C)
            m.wd = g(C, c['ff'], 0.0)
            s.L.append(m)
        s.register_buffer('slopes', slopes(c), persistent=False)
        f = (lambda z: torch.compile(z, dynamic=False)) if compile else (lambda z: z)
        s.pre, s.post, s.hl = f(pre), f(post), f(head_loss)

    def trunk(s, ids, dt=torch.bfloat16, attend=None, hook=None):
        c = s.c
        B, T = ids.shape
        H, HK, D = c['heads'], c['kv'], c['hd']
        ll = torch.log(torch.log(torch.arange(T, device=ids.device).float() + 2)).repeat(B)
        x = F.embedding(ids.reshape(-1), s.emb).float()
        for l, m in enumerate(s.L):
            q, k, v = s.pre(
                x,
                m.n1,
                m.wq,
                m.wk,
                m.wv,
                m.wbg,
                ll,
                H,
                c['alibi'],
                D,
                c['delta'],
                c['grange'],
                c['eps'],
                dt,
            )
            q, k, v = q.view(B, T, H, D), k.view(B, T, HK, D), v.view(B, T, HK, D)
            if hook:
                hook(l, q, k, v)
            a = (attend or EA.Entmax15Attention.apply)(q, k, v, s.slopes)
            x = s.post(
                x, a.reshape(B * T, H * D).to(dt), m.wo, m.n2, m.wg, m.wu, m.wd, c['eps'], dt
            )
        return x

    def logits(s, x, dt=torch.bfloat16):
        return (rms(x, s.nf, s.c['eps']).to(dt) @ s.emb.to(dt).T).float()


def ns5(G):
    a, b, c = 3.4445, -4.7750, 2.0315
    X = G.bfloat16()
    tr = X.shape[-2] > X.shape[-1]
    if tr:
        X = X.mT
    X = X / (X.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        A = X @ X.mT
        X = a * X + (b * A + c * A @ A) @ X
    return X.mT if tr else X


class Opt:
    """Muon for the blocks' matrices, AdamW for embeddings, norms and scale projections."""

    def __init__(s, model, lr_muon=0.02, lr_adam=2e-3, wd=0.1):
        s.lm, s.la, s.wd = lr_muon, lr_adam, wd
        s.groups = []
        for n in 'wq wk wv wo wg wu wd'.split():
            ps = [getattr(m, n) for m in model.L]
            s.groups.append((ps, torch.zeros(len(ps), *ps[0].shape, device=ps[0].device)))
        small = [model.nf] + [p for m in model.L for p in (m.n1, m.n2, m.wbg)]
        s.adam = torch.optim.AdamW(
            [
                dict(params=[model.emb], mult=1.0, weight_decay=0.0),
                dict(params=small, mult=0.5, weight_decay=0.0),
            ],
            lr=lr_adam,
            betas=(0.9, 0.95),
            eps=1e-8,
            fused=model.emb.is_cuda,
        )

    @torch.no_grad()
    def step(s, f):
        for g in s.adam.param_groups:
            g['lr'] = s.la * f * g['mult']
        s.adam.step()
        for ps, mom in s.groups:
            g = torch.stack([p.grad for p in ps])
            mom.mul_(0.95).add_(g, alpha=0.05)
            u = ns5(g * 0.05 + mom * 0.95).float()
            r = max(1, ps[0].shape[0] / ps[0].shape[1]) ** 0.5
            lr = s.lm * f
            torch._foreach_mul_(ps, 1 - lr * s.wd)
            torch._foreach_add_(ps, list((u * (-lr * r)).unbind(0)))
