"""Times PyTorch's SDPA (FlashAttention-2 and cuDNN) on the shapes of tests/gpu/prefill_check.cu: one JSON object a line.

One sequence of 16 heads, causal, bf16, random normal inputs; medians of device events in milliseconds.
"""

import json

import torch
import torch.nn.functional as functional
from torch.nn.attention import SDPBackend, sdpa_kernel

BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}


def median_ms(run, times):
    run()
    torch.cuda.synchronize()
    measured = []
    for _ in range(times):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        end.synchronize()
        measured.append(begin.elapsed_time(end))
    return sorted(measured)[times // 2]


def main():
    for dim in (64, 128):
        for tokens in (4096, 8192, 16384, 32768, 65536, 131072):
            q, k, v = (
                torch.randn(1, 16, tokens, dim, device="cuda", dtype=torch.bfloat16) for _ in range(3)
            )
            for name, backend in BACKENDS.items():
                with sdpa_kernel(backend):
                    ms = median_ms(
                        lambda: functional.scaled_dot_product_attention(q, k, v, is_causal=True),
                        3 if tokens > 50000 else 9,
                    )
                print(json.dumps({"name": name, "dim": dim, "tokens": tokens, "ms": round(ms, 4)}), flush=True)


if __name__ == "__main__":
    main()
