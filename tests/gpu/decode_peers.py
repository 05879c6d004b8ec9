"""Times PyTorch's attention (softmax) for decode shapes: one new token, 8 KV heads x 4 query heads, head_dim 128.

Same method as `decode_check time`: CUDA graph replays, medians, one JSON object a line.
"""

import json
import sys

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}


def time_us(call):
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    times = []
    for i in range(35):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        if i >= 5:
            times.append(begin.elapsed_time(end) * 1e3)
    return sorted(times)[len(times) // 2]


def main():
    million = len(sys.argv) > 1 and sys.argv[1] == "1"
    shapes = [(1, 8192), (1, 32768), (1, 131072), (16, 8192), (16, 32768), (16, 131072)]
    if million:
        shapes.append((1, 1048576))
    for batch, tokens in shapes:
        q = torch.randn(batch, 32, 1, 128, device="cuda", dtype=torch.bfloat16)
        k = torch.randn(batch, 8, tokens, 128, device="cuda", dtype=torch.bfloat16)
        v = torch.randn_like(k)
        for name, backend in BACKENDS.items():
            row = {"kind": "decode", "name": name, "batch": batch, "tokens": tokens}
            try:
                with sdpa_kernel(backend):
                    row["us"] = round(
                        time_us(lambda: F.scaled_dot_product_attention(q, k, v, enable_gqa=True)), 2
                    )
            except RuntimeError as error:
                row["error"] = str(error)[:200]
            print(json.dumps(row), flush=True)
        del q, k, v
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
