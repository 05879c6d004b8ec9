"""What functions take, in the form that the kernels take it."""

from __future__ import annotations

import math
from collections.abc import Sequence


def per_head(value: float | Sequence[float] | None, heads: int, default: float) -> list[float]:
    if value is None:
        value = default
    if isinstance(value, (int, float)):
        return [float(value)] * heads
    return [float(x) for x in value]


def scale_or_default(scale: float | None, head_dim: int) -> float:
    return 1 / math.sqrt(head_dim) if scale is None else float(scale)


def window_or_all(window: int | None) -> int:
    if window is None:
        return 0
    if window < 1:
        raise ValueError(f"window is {window}, not at least 1")
    return window
