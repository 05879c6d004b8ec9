"""The model finds what it was asked for in 16k and 64k tokens. Minutes on a small machine."""

import pytest

from recall import cases, check
from server_process import Server


@pytest.fixture(scope="module")
def roomy():
    with Server("--max_batched_tokens=2048") as running:
        yield running


@pytest.mark.parametrize("case", cases("16k") + cases("64k"), ids=lambda case: case["id"])
def test_recall(roomy, case):
    check(roomy, case, most_attended=0.5, timeout=600)
