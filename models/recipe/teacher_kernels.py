"""Triton kernels of one decoding step of the teacher.

Read and write no files. They work on a large batch of rows, each at its own position; one program
does one row unless said otherwise. Activations are bfloat16 but for the residual stream x (float32)
and cos_sin (float32).
"""

import triton
import triton.language as tl


@triton.jit
def add_norm_kernel(
    x, y, weight, out, D: tl.constexpr, BLOCK: tl.constexpr, ADD: tl.constexpr, EPS: tl.constexpr
):
    """x [rows, D] += y if ADD; out = RMS norm of x, times weight [D]."""
    row = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    mask = i < D
    a = tl.load(x + row * D + i, mask, 0.0).to(tl.float32)
    if ADD:
        a += tl.load(y + row * D + i, mask, 0.0).to(tl.float32)
        tl.store(x + row * D + i, a, mask)
    mean_square = tl.sum(a * a) / D
    target = out + row * D + i
    normed = a * tl.rsqrt(mean_square + EPS) * tl.load(weight + i, mask, 0.0).to(tl.float32)
    tl.store(target, normed.to(out.dtype.element_ty), mask)


@triton.jit
def silu_mul_kernel(x, out, F: tl.constexpr, BLOCK: tl.constexpr):
    """x [rows, 2 F] -> out [rows, F]: silu(first half) * second half."""
    row = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    mask = i < F
    gate = tl.load(x + row * 2 * F + i, mask, 0.0).to(tl.float32)
    up = tl.load(x + row * 2 * F + F + i, mask, 0.0).to(tl.float32)
    tl.store(out + row * F + i, (gate / (1 + tl.exp(-gate)) * up).to(out.dtype.element_ty), mask)


@triton.jit
def rope_cache_kernel(
    qkv, position, cos_sin, q, k_cache, v_cache, slots, HEADS: tl.constexpr, KV_HEADS: tl.constexpr
):
    """Rotates queries and keys (adjacent pairs); caches keys and values at the row's position.

    qkv [rows, HEADS + 2 KV_HEADS, 64], q [rows, HEADS, 64], caches [rows, KV_HEADS, slots, 64],
    cos_sin [slots, 32 + 32].
    """
    row = tl.program_id(0).to(tl.int64)
    p = tl.load(position + row)
    pair = tl.arange(0, 32)
    head = tl.arange(0, 16)
    cos = tl.load(cos_sin + p * 64 + pair)[None, :]
    sin = tl.load(cos_sin + p * 64 + 32 + pair)[None, :]
    rotated = (head < HEADS + KV_HEADS)[:, None] & (pair < 32)[None, :]
    row_start = qkv + row * (HEADS + 2 * KV_HEADS) * 64
    source = row_start + head[:, None] * 64 + 2 * pair[None, :]
    x0 = tl.load(source, rotated, 0.0).to(tl.float32)
    x1 = tl.load(source + 1, rotated, 0.0).to(tl.float32)
    y0 = (x0 * cos - x1 * sin).to(q.dtype.element_ty)
    y1 = (x0 * sin + x1 * cos).to(q.dtype.element_ty)

    is_query = (head < HEADS)[:, None] & (pair < 32)[None, :]
    q_target = q + row * HEADS * 64 + head[:, None] * 64 + 2 * pair[None, :]
    tl.store(q_target, y0, is_query)
    tl.store(q_target + 1, y1, is_query)

    is_key = ((head >= HEADS) & (head < HEADS + KV_HEADS))[:, None] & (pair < 32)[None, :]
    k_row = (row * KV_HEADS + head[:, None] - HEADS) * slots + p
    k_target = k_cache + k_row * 64 + 2 * pair[None, :]
    tl.store(k_target, y0, is_key)
    tl.store(k_target + 1, y1, is_key)

    i = tl.arange(0, 64)
    kv_head = tl.arange(0, 4)
    is_value = (kv_head < KV_HEADS)[:, None] & (i < 64)[None, :]
    v_source = row_start + (HEADS + KV_HEADS + kv_head[:, None]) * 64 + i[None, :]
    v = tl.load(v_source, is_value, 0.0)
    v_row = (row * KV_HEADS + kv_head[:, None]) * slots + p
    tl.store(v_cache + v_row * 64 + i[None, :], v, is_value)


@triton.jit
def decode_attention_kernel(
    q,
    k_cache,
    v_cache,
    position,
    out,
    slots,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Softmax attention of one token a row: q -> out [rows, HEADS, 64].

    One program does a row and KV head, for the GROUP query heads that share it.
    """
    program = tl.program_id(0).to(tl.int64)
    row = program // KV_HEADS
    kv_head = program % KV_HEADS
    count = tl.load(position + row) + 1
    member = tl.arange(0, 16)
    i = tl.arange(0, 64)
    slot = tl.arange(0, BLOCK)
    exists = (member < GROUP)[:, None] & (i < 64)[None, :]
    index = row * HEADS * 64 + (kv_head * GROUP + member[:, None]) * 64 + i[None, :]
    queries = tl.load(q + index, exists, 0.0)
    largest = tl.full([16], -1e30, tl.float32)
    total = tl.zeros([16], tl.float32)
    weighted = tl.zeros([16, 64], tl.float32)
    k_base = k_cache + program * slots * 64
    v_base = v_cache + program * slots * 64
    for start in range(0, count, BLOCK):
        filled = start + slot < count
        k = tl.load(k_base + (start + slot)[None, :] * 64 + i[:, None], filled[None, :], 0.0)
        a = tl.dot(queries, k) * 0.125
        a = tl.where(filled[None, :], a, -1e30)
        new_largest = tl.maximum(largest, tl.max(a, 1))
        rescale = tl.exp(largest - new_largest)
        p = tl.exp(a - new_largest[:, None])
        total = total * rescale + tl.sum(p, 1)
        v = tl.load(v_base + (start + slot)[:, None] * 64 + i[None, :], filled[:, None], 0.0)
        weighted = weighted * rescale[:, None] + tl.dot(p.to(v.dtype), v)
        largest = new_largest
    tl.store(out + index, (weighted / total[:, None]).to(out.dtype.element_ty), exists)


@triton.jit
def penalty_kernel(
    logits, history, position, answer_start, vocabulary, slots, PENALTY, BLOCK: tl.constexpr
):
    """Changes logits [rows, vocabulary] in place.

    Tokens of the answer so far get the repetition penalty; no token may complete four in a row that
    the answer already has. history [rows, slots]: the tokens at positions 0 to position, which is
    [rows], as is answer_start, the answer's first position.
    """
    row = tl.program_id(0).to(tl.int64)
    p = tl.load(position + row)
    first = tl.load(answer_start + row)
    i = tl.arange(0, BLOCK)
    tokens = history + row * slots
    token = tl.load(tokens + i, i <= p, 0)
    in_answer = (i >= first) & (i <= p)
    logit = tl.load(logits + row * vocabulary + token, in_answer, 0.0).to(tl.float32)
    tl.debug_barrier()
    penalized = tl.where(logit > 0, logit / PENALTY, logit * PENALTY)
    tl.store(logits + row * vocabulary + token, penalized, in_answer)
    tl.debug_barrier()
    last0 = tl.load(tokens + p - 2, p >= 2, -1)
    last1 = tl.load(tokens + p - 1, p >= 1, -1)
    last2 = tl.load(tokens + p)
    has_next = (i >= first) & (i + 3 <= p)
    repeats = has_next & (token == last0)
    repeats = repeats & (tl.load(tokens + i + 1, has_next, -2) == last1)
    repeats = repeats & (tl.load(tokens + i + 2, has_next, -2) == last2)
    following = tl.load(tokens + i + 3, repeats, 0)
    tl.store(logits + row * vocabulary + following, -1e30, repeats)


@triton.jit
def sample_kernel(logits, seed, out, vocabulary, INV_TEMPERATURE, LOG_MIN_P, BLOCK: tl.constexpr):
    """Draws out [rows], a token a row, from softmax(logits / temperature) above min-p.

    By Gumbel's maximum. seed [1] changes with every step.
    """
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BLOCK)
    largest = -1e30
    for start in range(0, vocabulary, BLOCK):
        x = tl.load(logits + row * vocabulary + start + i).to(tl.float32)
        largest = tl.maximum(largest, tl.max(x))
    best = -1e30
    best_token = 0
    step = tl.load(seed)
    for start in range(0, vocabulary, BLOCK):
        x = tl.load(logits + row * vocabulary + start + i).to(tl.float32)
        x = (x - largest) * INV_TEMPERATURE
        uniform = tl.rand(step, (row * vocabulary + start + i).to(tl.int32))
        gumbel = -tl.log(-tl.log(uniform + 1e-10) + 1e-10)
        z = tl.where(x > LOG_MIN_P, x + gumbel, -1e30)
        block_best = tl.max(z)
        block_token = tl.argmax(z, 0)
        best_token = tl.where(block_best > best, start + block_token, best_token)
        best = tl.maximum(best, block_best)
    tl.store(out + row, best_token)
