"""Exact causal entmax-1.5 attention with ALiBi and grouped keys, forward and backward, in Triton.

Reads and writes no files. For a query row i of head h:
a_j = q_i . k_j / sqrt(head_dim) - slope_h (i - j),  s = a / 2,  p_j = max(s_j - tau, 0)^2,
and tau makes the weights p sum to 1. tau comes from Newton's method started left of the root
(max s - 1): the function is convex and decreasing, so every step stays left of it.

Backward, with g_j = max(s_j - tau, 0) = sqrt(p_j):  dA_j = g_j (dP_j - delta),  where
delta = sum_j g_j dP_j / sum_j g_j = dO . (sum_j g_j v_j / sum_j g_j). The forward pass saves the
second factor.

Tensors, contiguous, bfloat16 unless said otherwise: queries and outputs [batch, length, heads,
head_dim]; keys and values [batch, length, kv_heads, head_dim]; slopes float32 [heads], 0 for no
bias; tau, support and delta float32 [batch * heads, length].
"""

import torch
import triton
import triton.language as tl

import reference_attention

NEWTON_STEPS = 8
BLOCK_ROWS = 64
BLOCK_KEYS = 64
WARPS = 4


@triton.jit
def biased(products, half_slope, half_scale, key, row):
    """s [rows, keys] before the causal mask, from q . k."""
    return products * half_scale + half_slope * (key[None, :] - row[:, None]).to(tl.float32)


@triton.jit
def load_scores(q, k_base, half_slope, half_scale, key, row, stride, length, d):
    """s [rows, keys] before the causal mask."""
    k = tl.load(k_base + key[None, :] * stride + d[:, None], (key < length)[None, :], 0.0)
    return biased(tl.dot(q, k), half_slope, half_scale, key, row)


@triton.jit
def root_weights(s, tau, key, row):
    """g [rows, keys]: square roots of the weights, 0 for later keys."""
    return tl.where(key[None, :] <= row[:, None], tl.maximum(s - tau[:, None], 0.0), 0.0)


@triton.jit
def forward_kernel(
    Q,
    K,
    V,
    OUT,
    OUT_BY_G,
    TAU,
    SUPPORT,
    SLOPE,
    length,
    heads,
    kv_heads,
    scale,
    STEPS: tl.constexpr,
    COUNT_SUPPORT: tl.constexpr,
    D: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
):
    """One block of rows of one head: maximum, tau by Newton steps, weighted sums of the values."""
    block = tl.num_programs(0) - 1 - tl.program_id(0)  # those with the most keys first
    batch_head = tl.program_id(1)
    batch = (batch_head // heads).to(tl.int64)
    head = batch_head % heads
    kv_head = head // (heads // kv_heads)
    row = block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    d = tl.arange(0, D)
    column = tl.arange(0, BLOCK_KEYS)
    row_exists = row < length
    row_start = ((batch * length + row[:, None]) * heads + head) * D
    q = tl.load(Q + row_start + d[None, :], row_exists[:, None], 0.0)
    half_slope = tl.load(SLOPE + head) * 0.5
    half_scale = scale * 0.5
    end = tl.minimum(length, (block + 1) * BLOCK_ROWS)
    k_base = K + (batch * length * kv_heads + kv_head) * D
    v_base = V + (batch * length * kv_heads + kv_head) * D
    stride = kv_heads * D  # from key to key

    largest = tl.full([BLOCK_ROWS], -1e30, tl.float32)
    for start in range(0, end, BLOCK_KEYS):
        key = start + column
        s = load_scores(q, k_base, half_slope, half_scale, key, row, stride, length, d)
        s = tl.where(key[None, :] <= row[:, None], s, -1e30)
        largest = tl.maximum(largest, tl.max(s, 1))

    tau = largest - 1.0
    for _ in range(STEPS):
        sum_g = tl.zeros([BLOCK_ROWS], tl.float32)
        sum_p = tl.zeros([BLOCK_ROWS], tl.float32)
        for start in range(0, end, BLOCK_KEYS):
            key = start + column
            s = load_scores(q, k_base, half_slope, half_scale, key, row, stride, length, d)
            g = root_weights(s, tau, key, row)
            sum_g += tl.sum(g, 1)
            sum_p += tl.sum(g * g, 1)
        tau += (sum_p - 1.0) / (2.0 * tl.maximum(sum_g, 1e-6))

    out = tl.zeros([BLOCK_ROWS, D], tl.float32)
    out_by_g = tl.zeros([BLOCK_ROWS, D], tl.float32)
    sum_g = tl.zeros([BLOCK_ROWS], tl.float32)
    sum_p = tl.zeros([BLOCK_ROWS], tl.float32)
    support = tl.zeros([BLOCK_ROWS], tl.float32)
    for start in range(0, end, BLOCK_KEYS):
        key = start + column
        s = load_scores(q, k_base, half_slope, half_scale, key, row, stride, length, d)
        g = root_weights(s, tau, key, row)
        if tl.max(tl.max(g, 1), 0) > 0:
            v = tl.load(v_base + key[:, None] * stride + d[None, :], (key < length)[:, None], 0.0)
            sum_g += tl.sum(g, 1)
            sum_p += tl.sum(g * g, 1)
            out += tl.dot((g * g).to(v.dtype), v)
            out_by_g += tl.dot(g.to(v.dtype), v)
            if COUNT_SUPPORT:
                support += tl.sum((g > 0).to(tl.float32), 1)

    index = row_start + d[None, :]
    out = out / tl.maximum(sum_p, 1e-6)[:, None]
    tl.store(OUT + index, out.to(OUT.dtype.element_ty), row_exists[:, None])
    out_by_g = out_by_g / tl.maximum(sum_g, 1e-6)[:, None]
    tl.store(OUT_BY_G + index, out_by_g.to(OUT_BY_G.dtype.element_ty), row_exists[:, None])
    tl.store(TAU + batch_head * length + row, tau, row_exists)
    if COUNT_SUPPORT:
        tl.store(SUPPORT + batch_head * length + row, support, row_exists)


@triton.jit
def backward_queries_kernel(
    Q,
    K,
    V,
    D_OUT,
    DELTA,
    TAU,
    D_Q,
    SLOPE,
    length,
    heads,
    kv_heads,
    scale,
    D: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
):
    """Gradient of one block of query rows of one head."""
    block = tl.num_programs(0) - 1 - tl.program_id(0)
    batch_head = tl.program_id(1)
    batch = (batch_head // heads).to(tl.int64)
    head = batch_head % heads
    kv_head = head // (heads // kv_heads)
    row = block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    d = tl.arange(0, D)
    column = tl.arange(0, BLOCK_KEYS)
    row_exists = row < length
    q_index = ((batch * length + row[:, None]) * heads + head) * D + d[None, :]
    q = tl.load(Q + q_index, row_exists[:, None], 0.0)
    d_out = tl.load(D_OUT + q_index, row_exists[:, None], 0.0)
    tau = tl.load(TAU + batch_head * length + row, row_exists, 0.0)
    delta = tl.load(DELTA + batch_head * length + row, row_exists, 0.0)
    half_slope = tl.load(SLOPE + head) * 0.5
    half_scale = scale * 0.5
    k_base = K + (batch * length * kv_heads + kv_head) * D
    v_base = V + (batch * length * kv_heads + kv_head) * D
    stride = kv_heads * D
    d_q = tl.zeros([BLOCK_ROWS, D], tl.float32)
    for start in range(0, tl.minimum(length, (block + 1) * BLOCK_ROWS), BLOCK_KEYS):
        key = start + column
        k = tl.load(k_base + key[:, None] * stride + d[None, :], (key < length)[:, None], 0.0)
        s = biased(tl.dot(q, tl.trans(k)), half_slope, half_scale, key, row)
        g = root_weights(s, tau, key, row)
        if tl.max(tl.max(g, 1), 0) > 0:
            v = tl.load(v_base + key[None, :] * stride + d[:, None], (key < length)[None, :], 0.0)
            d_scores = g * (tl.dot(d_out, v) - delta[:, None])
            d_q += tl.dot(d_scores.to(k.dtype), k)
    tl.store(D_Q + q_index, (d_q * scale).to(D_Q.dtype.element_ty), row_exists[:, None])


@triton.jit
def backward_keys_kernel(
    Q,
    K,
    V,
    D_OUT,
    DELTA,
    TAU,
    D_K,
    D_V,
    SLOPE,
    length,
    heads,
    kv_heads,
    scale,
    D: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
):
    """Gradients of one block of keys and values, over all query heads that share them."""
    block = tl.program_id(0)
    batch_kv_head = tl.program_id(1)
    batch = (batch_kv_head // kv_heads).to(tl.int64)
    kv_head = batch_kv_head % kv_heads
    key = block * BLOCK_KEYS + tl.arange(0, BLOCK_KEYS)
    d = tl.arange(0, D)
    column = tl.arange(0, BLOCK_ROWS)
    key_exists = key < length
    k_index = ((batch * length + key[:, None]) * kv_heads + kv_head) * D + d[None, :]
    k = tl.load(K + k_index, key_exists[:, None], 0.0)
    v = tl.load(V + k_index, key_exists[:, None], 0.0)
    d_k = tl.zeros([BLOCK_KEYS, D], tl.float32)
    d_v = tl.zeros([BLOCK_KEYS, D], tl.float32)
    half_scale = scale * 0.5
    group = heads // kv_heads
    for member in range(group):
        head = kv_head * group + member
        half_slope = tl.load(SLOPE + head) * 0.5
        batch_head = batch * heads + head
        for start in range((block * BLOCK_KEYS // BLOCK_ROWS) * BLOCK_ROWS, length, BLOCK_ROWS):
            row = start + column
            row_exists = row < length
            q_index = ((batch * length + row[:, None]) * heads + head) * D + d[None, :]
            q = tl.load(Q + q_index, row_exists[:, None], 0.0)
            # Rows that don't exist get a threshold that no score passes.
            tau = tl.load(TAU + batch_head * length + row, row_exists, 1e30)
            s = biased(tl.dot(q, tl.trans(k)), half_slope, half_scale, key, row)
            g = root_weights(s, tau, key, row)
            if tl.max(tl.max(g, 1), 0) > 0:
                d_out = tl.load(D_OUT + q_index, row_exists[:, None], 0.0)
                delta = tl.load(DELTA + batch_head * length + row, row_exists, 0.0)
                d_v += tl.dot(tl.trans((g * g).to(d_out.dtype)), d_out)
                d_scores = g * (tl.dot(d_out, tl.trans(v)) - delta[:, None])
                d_k += tl.dot(tl.trans(d_scores.to(q.dtype)), q)
    tl.store(D_K + k_index, (d_k * scale).to(D_K.dtype.element_ty), key_exists[:, None])
    tl.store(D_V + k_index, d_v.to(D_V.dtype.element_ty), key_exists[:, None])


def forward(q, k, v, slopes, count_support=False, steps=NEWTON_STEPS):
    """-> output, values weighted by g (for the backward pass), tau, support (keys with weight).

    support is None unless counted.
    """
    batch, length, heads, head_dim = q.shape
    kv_heads = k.shape[2]
    out = torch.empty_like(q)
    out_by_g = torch.empty_like(q)
    tau = torch.empty(batch * heads, length, device=q.device, dtype=torch.float32)
    support = torch.empty_like(tau) if count_support else None
    pointers = (q, k, v, out, out_by_g, tau, tau if support is None else support, slopes)
    sizes = (length, heads, kv_heads, head_dim**-0.5)
    constants = (steps, count_support, head_dim, BLOCK_ROWS, BLOCK_KEYS)
    grid = (triton.cdiv(length, BLOCK_ROWS), batch * heads)
    forward_kernel[grid](*pointers, *sizes, *constants, num_warps=WARPS)
    return out, out_by_g, tau, support


class Entmax15Attention(torch.autograd.Function):
    """apply(q, k, v, slopes) -> output."""

    @staticmethod
    def forward(ctx, q, k, v, slopes):
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        out, out_by_g, tau, _ = forward(q, k, v, slopes)
        ctx.save_for_backward(q, k, v, out_by_g, tau, slopes)
        return out

    @staticmethod
    def backward(ctx, d_out):
        q, k, v, out_by_g, tau, slopes = ctx.saved_tensors
        batch, length, heads, head_dim = q.shape
        kv_heads = k.shape[2]
        d_out = d_out.contiguous()
        delta = (d_out.float() * out_by_g.float()).sum(-1).transpose(1, 2)
        delta = delta.reshape(batch * heads, length).contiguous()
        d_q, d_k, d_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        sizes = (length, heads, kv_heads, head_dim**-0.5, head_dim, BLOCK_ROWS, BLOCK_KEYS)
        backward_queries_kernel[(triton.cdiv(length, BLOCK_ROWS), batch * heads)](
            q, k, v, d_out, delta, tau, d_q, slopes, *sizes, num_warps=WARPS
        )
        backward_keys_kernel[(triton.cdiv(length, BLOCK_KEYS), batch * kv_heads)](
            q, k, v, d_out, delta, tau, d_k, d_v, slopes, *sizes, num_warps=WARPS
        )
        return d_q, d_k, d_v, None


def check_kernels(slopes):
    """Prints the largest differences of the kernels' output and gradients from sorting."""
    heads = len(slopes)
    shape, kv_shape = (2, 512, heads, 64), (2, 512, heads // 2, 64)
    q, k, v = (
        torch.randn(size, device=slopes.device).bfloat16().requires_grad_()
        for size in (shape, kv_shape, kv_shape)
    )
    d_out = torch.randn(shape, device=slopes.device).bfloat16()
    out = Entmax15Attention.apply(q * 2, k, v, slopes)
    out.backward(d_out)
    gradients = [x.grad.float().clone() for x in (q, k, v)]
    for x in (q, k, v):
        x.grad = None
    expected = reference_attention.attend_exactly(q * 2, k, v, slopes)
    expected.backward(d_out.float())
    differences = [
        ((gradient - x.grad.float()).abs().max() / x.grad.float().abs().max()).item()
        for gradient, x in zip(gradients, (q, k, v))
    ]
    output = (out - expected).abs().max().item()
    print(f"kernels against sorting: output {output:.1e}, gradients of q, k, v relative to the")
    print("largest", ", ".join(f"{x:.1e}" for x in differences), flush=True)
