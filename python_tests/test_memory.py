"""What calls leave behind: nothing."""

import contextlib
import ctypes

import pytest
import torch
from samples import gaussian

import svdprune_ext as svdprune

CALLS = 2000
LEAST_LEAK = 8  # bytes a call: less than any block of memory


class Mallinfo(ctypes.Structure):
    """``struct mallinfo2`` of the GNU C library, whose ``uordblks`` is the number of bytes in use."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def bytes_in_use():
    mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo is None:
        pytest.skip("no mallinfo2: the C library is not GNU's, or older than 2.33")
    mallinfo.restype = Mallinfo
    return mallinfo().uordblks


def refused(call):
    def refuse():
        with contextlib.suppress(ValueError):
            call()
            raise AssertionError("not refused")

    return refuse


X = gaussian(12, 8)
OFFSETS = torch.tensor([0, 5, 12]), torch.tensor([0, 2, 4])
TOTALS = {"total_keep": 4, "max_seqlen": 7}
HEADS = torch.rand(1, 2, 6, 4), torch.rand(1, 2, 6, 4)
PLACES = torch.tensor([[5]]), torch.tensor([[0, 1, 2]])
CALLED = {
    "leverage_scores": lambda: svdprune.leverage_scores(X),
    "diagnose": lambda: svdprune.diagnose(X),
    "prune": lambda: svdprune.prune(X, 4),
    "prune, pivoted": lambda: svdprune.prune(X, 4, select="pivoted"),
    "prune_adaptive": lambda: svdprune.prune_adaptive(X, 4, coverage=0.5),
    "prune_varlen": lambda: svdprune.prune_varlen(X, *OFFSETS, **TOTALS),
    "rater_scores": lambda: svdprune.rater_scores(*HEADS, *PLACES),
    "refused by its solver": refused(lambda: svdprune.prune(X, 4, solver="other")),
    "refused by its numbers": refused(lambda: svdprune.prune(X * torch.nan, 4)),
}


@pytest.mark.parametrize("name", CALLED)
def test_a_call_leaves_no_memory_behind(name):
    call = CALLED[name]
    for _ in range(100):
        call()
    before = bytes_in_use()
    for _ in range(CALLS):
        call()
    assert bytes_in_use() - before < LEAST_LEAK * CALLS
