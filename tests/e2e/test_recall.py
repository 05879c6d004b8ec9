"""The model finds what it was asked for in 2k tokens."""

import pytest

from recall import cases, check


@pytest.mark.parametrize("case", cases("2k"), ids=lambda case: case["id"])
def test_recall(server, case):
    check(server, case, most_attended=0.7)
