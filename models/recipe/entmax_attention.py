"""Exact causal entmax-1.5 attention with ALiBi bias and grouped keys, forward and backward, in Triton.

Per row i: a_ij = (q_i . k_j) / sqrt(d) - slope_h (i - j),  s = a/2,  p = max(s - tau, 0)^2,  sum_j p = 1.
tau by Newton from the left (tau_0 = max s - 1; the function is convex and decreasing, so every step stays a floor).
Backward with g = sqrt(p):  dA = g (dP - delta),  delta = sum g dP / sum g = dO . (sum_j g_j v_j / sum_j g_j).
"""

import math
import torch, triton, triton.language as tl


@triton.jit
def fwd_kernel(
    Q,
    K,
    V,
    O,
    O2,
    TAU,
    SUP,
    SLOPE,
    T,
    Tk,
    OFF,
    H,
    HK,
    scale,
    NIT: tl.constexpr,
    STATS: tl.constexpr,
    D: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    # Q [B, Tq, H, D] rows at positions OFF + t; K, V [B, Tk, HK, D]
    pm = tl.num_programs(0) - 1 - tl.program_id(0)
    bh = tl.program_id(1)
    b = (bh // H).to(tl.int64)
    h = bh % H
    hk = h // (H // HK)
    r = pm * BM + tl.arange(0, BM)
    d = tl.arange(0, D)
    n = tl.arange(0, BN)
    mr = r < T
    q = tl.load(Q + ((b * T + r[:, None]) * H + h) * D + d[None, :], mr[:, None], 0.0)
    sl = tl.load(SLOPE + h) * 0.5
    sc = scale * 0.5
    pos = OFF + r
    hi = tl.minimum(Tk, OFF + (pm + 1) * BM)
    kp = K + (b * Tk * HK + hk) * D
    vp = V + (b * Tk * HK + hk) * D
    mx = tl.full([BM], -1e30, tl.float32)
    for s0 in range(0, hi, BN):
        j = s0 + n
        k = tl.load(kp + j[None, :] * (HK * D) + d[:, None], (j < Tk)[None, :], 0.0)
        s = tl.dot(q, k) * sc + sl * (j[None, :] - pos[:, None]).to(tl.float32)
        s = tl.where(j[None, :] <= pos[:, None], s, -1e30)
        mx = tl.maximum(mx, tl.max(s, 1))
    tau = mx - 1.0
    for it in range(NIT):
        s1 = tl.zeros([BM], tl.float32)
        s2 = tl.zeros([BM], tl.float32)
        for s0 in range(0, hi, BN):
            j = s0 + n
            k = tl.load(kp + j[None, :] * (HK * D) + d[:, None], (j < Tk)[None, :], 0.0)
            s = tl.dot(q, k) * sc + sl * (j[None, :] - pos[:, None]).to(tl.float32)
            g = tl.where(j[None, :] <= pos[:, None], tl.maximum(s - tau[:, None], 0.0), 0.0)
            s1 += tl.sum(g, 1)
            s2 += tl.sum(g * g, 1)
        tau += (s2 - 1.0) / (2.0 * tl.maximum(s1, 1e-6))
    acc = tl.zeros([BM, D], tl.float32)
    acc2 = tl.zeros([BM, D], tl.float32)
    s1 = tl.zeros([BM], tl.float32)
    s2 = tl.zeros([BM], tl.float32)
    cnt = tl.zeros([BM], tl.float32)
    for s0 in range(0, hi, BN):
        j = s0 + n
        k = tl.load(kp + j[None, :] * (HK * D) + d[:, None], (j < Tk)[None, :], 0.0)
        s = tl.dot(q, k) * sc + sl * (j[None, :] - pos[:, None]).to(tl.float32)
        g = tl.where(j[None, :] <= pos[:, None], tl.maximum(s - tau[:, None], 0.0), 0.0)
        if tl.max(tl.max(g, 1), 0) > 0:
            v = tl.load(vp + j[:, None] * (HK * D) + d[None, :], (j < Tk)[:, None], 0.0)
            s1 += tl.sum(g, 1)
            s2 += tl.sum(g * g, 1)
            acc += tl.dot((g * g).to(v.dtype), v)
            acc2 += tl.dot(g.to(v.dtype), v)
            if STATS:
                cnt += tl.sum((g > 0).to(tl.float32), 1)
    o = ((b * T + r[:, None]) * H + h) * D + d[None, :]
    tl.store(O + o, (acc / tl.maximum(s2, 1e-6)[:, None]).to(O.dtype.element_ty), mr[:, None])
    tl.store(O2 + o, (acc2 / tl.maximum(s1, 1e-6)[:, None]).to(O2.dtype.element_ty), mr[:, None])
    tl.store(TAU + bh * T + r, tau, mr)
    if STATS:
        tl.store(SUP + bh * T + r, cnt, mr)


@triton.jit
def bwd_dq_kernel(
    Q,
    K,
    V,
    DO,
    DELTA,
    TAU,
    DQ,
    SLOPE,
    T,
    H,
    HK,
    scale,
    D: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    pm = tl.num_programs(0) - 1 - tl.program_id(0)
    bh = tl.program_id(1)
    b = (bh // H).to(tl.int64)
    h = bh % H
    hk = h // (H // HK)
    r = pm * BM + tl.arange(0, BM)
    d = tl.arange(0, D)
    n = tl.arange(0, BN)
    mr = r < T
    o = ((b * T + r[:, None]) * H + h) * D + d[None, :]
    q = tl.load(Q + o, mr[:, None], 0.0)
    do = tl.load(DO + o, mr[:, None], 0.0)
    tau = tl.load(TAU + bh * T + r, mr, 0.0)
    delta = tl.load(DELTA + bh * T + r, mr, 0.0)
    sl = tl.load(SLOPE + h) * 0.5
    sc = scale * 0.5
    kp = K + (b * T * HK + hk) * D
    vp = V + (b * T * HK + hk) * D
    dq = tl.zeros([BM, D], tl.float32)
    for s0 in range(0, tl.minimum(T, (pm + 1) * BM), BN):
        j = s0 + n
        k = tl.load(kp + j[:, None] * (HK * D) + d[None, :], (j < T)[:, None], 0.0)
        s = tl.dot(q, tl.trans(k)) * sc + sl * (j[None, :] - r[:, None]).to(tl.float32)
        g = tl.where(j[None, :] <= r[:, None], tl.maximum(s - tau[:, None], 0.0), 0.0)
        if tl.max(tl.max(g, 1), 0) > 0:
            v = tl.load(vp + j[None, :] * (HK * D) + d[:, None], (j < T)[None, :], 0.0)
            da = g * (tl.dot(do, v) - delta[:, None])
            dq += tl.dot(da.to(k.dtype), k)
    tl.store(DQ + o, (dq * scale).to(DQ.dtype.element_ty), mr[:, None])


@triton.jit
def bwd_dkv_kernel(
    Q,
    K,
    V,
    DO,
    DELTA,
    TAU,
    DK,
    DV,
    SLOPE,
    T,
    H,
    HK,
    scale,
    D: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    pn = tl.program_id(0)
    bk = tl.program_id(1)
    b = (bk // HK).to(tl.int64)
    hk = bk % HK
    j = pn * BN + tl.arange(0, BN)
    d = tl.arange(0, D)
    m = tl.arange(0, BM)
    mj = j < T
    ko = ((b * T + j[:, None]) * HK + hk) * D + d[None, :]
    k = tl.load(K + ko, mj[:, None], 0.0)
    v = tl.load(V + ko, mj[:, None], 0.0)
    dk = tl.zeros([BN, D], tl.float32)
    dv = tl.zeros([BN, D], tl.float32)
    sc = scale * 0.5
    G = H // HK
    for e in range(G):
        h = hk * G + e
        sl = tl.load(SLOPE + h) * 0.5
        bh = b * H + h
        for r0 in range((pn * BN // BM) * BM, T, BM):
            r = r0 + m
            mr = r < T
            o = ((b * T + r[:, None]) * H + h) * D + d[None, :]
            q = tl.load(Q + o, mr[:, None], 0.0)
            tau = tl.load(TAU + bh * T + r, mr, 1e30)
            s = tl.dot(q, tl.trans(k)) * sc + sl * (j[None, :] - r[:, None]).to(tl.float32)
            g = tl.where(j[None, :] <= r[:, None], tl.maximum(s - tau[:, None], 0.0), 0.0)
            if tl.max(tl.max(g, 1), 0) > 0:
                do = tl.load(DO + o, mr[:, None], 0.0)
                delta = tl.load(DELTA + bh * T + r, mr, 0.0)
                dv += tl.dot(tl.trans((g * g).to(do.dtype)), do)
                da = g * (tl.dot(do, tl.trans(v)) - delta[:, None])
                dk += tl.dot(tl.trans(da.to(q.dtype)), q)
    tl.store(DK + ko, (dk * scale).to(DK.dtype.element_ty), mj[:, None])
    tl.store(DV + ko, dv.to(DV.dtype.element_ty), mj[:, None])


NIT, BM, BN, WARPS = 8, 64, 64, 4


def forward(q, k, v, slopes, off=0, stats=False, nit=None):
    B, T, H, D = q.shape
    Tk, HK = k.shape[1], k.shape[2]
    o = torch.empty_like(q)
    o2 = torch.empty_like(q)
    tau = torch.empty(B * H, T, device=q.device, dtype=torch.float32)
    sup = torch.empty_like(tau) if stats else tau
    fwd_kernel[(triton.cdiv(T, BM), B * H)](
        q,
        k,
        v,
        o,
        o2,
        tau,
        sup,
        slopes,
        T,
        Tk,
        off,
        H,
        HK,
        D**-0.5,
        nit or NIT,
        stats,
        D,
        BM,
        BN,
        num_warps=WARPS,
    )
    return o, o2, tau, sup


class Entmax15Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, slopes):
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        o, o2, tau, _ = forward(q, k, v, slopes)
        ctx.save_for_backward(q, k, v, o2, tau, slopes)
        return o

    @staticmethod
    def backward(ctx, do):
        q, k, v, o2, tau, slopes = ctx.saved_tensors
        B, T, H, D = q.shape
        HK = k.shape[2]
        do = do.contiguous()
        delta = (do.float() * o2.float()).sum(-1).transpose(1, 2).reshape(B * H, T).contiguous()
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        bwd_dq_kernel[(triton.cdiv(T, BM), B * H)](
            q, k, v, do, delta, tau, dq, slopes, T, H, HK, D**-0.5, D, BM, BN, num_warps=WARPS
        )
        bwd_dkv_kernel[(triton.cdiv(T, BN), B * HK)](
            q, k, v, do, delta, tau, dk, dv, slopes, T, H, HK, D**-0.5, D, BM, BN, num_warps=WARPS
        )
        return dq, dk, dv, None


def scores(q, k, slopes, off=0):
    B, T, H, D = q.shape
    G = H // k.shape[2]
    kk = k.repeat_interleave(G, 2)
    a = torch.einsum('bihd,bjhd->bhij', q.float(), kk.float()) * D**-0.5
    i = off + torch.arange(T, device=q.device)
    j = torch.arange(k.shape[1], device=q.device)
    a = a + slopes.view(1, -1, 1, 1) * (j[None] - i[:, None])
    return a.masked_fill(j[None] > i[:, None], -1e30)


def entmax15(a):
    """Exact, by sorting (Peters et al. 2019)."""
    x = a / 2
    x = x - x.max(-1, keepdim=True).values
    z = x.sort(-1, descending=True).values
    rho = torch.arange(1, z.shape[-1] + 1, device=z.device, dtype=z.dtype)
    mean = z.cumsum(-1) / rho
    msq = (z * z).cumsum(-1) / rho
    tau = mean - torch.clamp((1 - rho * (msq - mean * mean)) / rho, min=0).sqrt()
    n = (tau <= z).sum(-1, keepdim=True)
    return torch.clamp(x - tau.gather(-1, n - 1), min=0) ** 2


def reference(q, k, v, slopes, off=0):
    p = entmax15(scores(q, k, slopes, off))
    return torch.einsum(
        'bhij,bjhd->bihd', p, v.float().repeat_interleave(q.shape[2] // k.shape[2], 2)
    )


class _Entmax15(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a):
        p = entmax15(a)
        ctx.save_for_backward(p)
        return p

    @staticmethod
    def backward(ctx, dp):
        g = ctx.saved_tensors[0].sqrt()
        return g * (dp - (g * dp).sum(-1, keepdim=True) / g.sum(-1, keepdim=True))


def reference_train(q, k, v, slopes):
    p = _Entmax15.apply(scores(q, k, slopes))
    return torch.einsum(
        'bhij,bjhd->bihd', p, v.float().repeat_interleave(q.shape[2] // k.shape[2], 2)
    ).to(q.dtype)
