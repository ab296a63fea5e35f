"""Every operator, dtype and way through the CUDA backend on small shapes, for compute-sanitizer.

``python -m bench.gpu_small [cuda|cpu] [quick]``; quick takes fewer shapes and dtypes. Run it with
``PYTORCH_NO_CUDA_MEMORY_CACHING=1``, so that the end of a tensor is the end of its memory.
"""

from __future__ import annotations

import argparse

import torch

import svdprune_ext as svdprune

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# More features than tokens and the reverse; sizes that no block or tile divides; the smallest.
SHAPES = ((3, 37, 53), (2, 70, 19), (1, 1, 1), (2, 300, 5))
MANY_TOKENS = (1, 1030, 40)  # "tridiag" takes the features' side
# For all kernels of "tridiag", and several warps of select "pivoted"; steep, so that few steps do.
STEEP = ((9, 300, 40), (1, 576, 40), (9, 576, 40), (1, 768, 40), (1, 1024, 40))
STEEP_QUICK = ((1, 300, 40), (1, 1024, 40))
QUICK = {torch.float32: SHAPES[:2], torch.float16: SHAPES[:1]}


def run(device: str, quick: bool = False) -> int:
    """Calls everything on a device.

    Returns:
        Number of calls.
    """
    calls = 0
    for dtype, shapes in (QUICK if quick else dict.fromkeys(DTYPES, SHAPES)).items():
        for shape in shapes:
            generator = torch.Generator().manual_seed(0)
            x = torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)
            n = shape[1]
            keep = min(n, 7)
            for center in (False, True) if not quick or shape == SHAPES[0] else (False,):
                svdprune.leverage_scores(x, center=center, solver="eigh")
                svdprune.prune(x, keep, center=center)
                svdprune.prune(x, keep, center=center, solver="tridiag")
                svdprune.prune(x, keep, center=center, solver="purify")
                svdprune.prune(x.mT.contiguous().mT, keep, rank=1, center=center)
                svdprune.prune_adaptive(x, keep, coverage=0.5, center=center)
                svdprune.prune(x, keep, select="pivoted", center=center)
                svdprune.prune_adaptive(x, keep, coverage=0.5, select="pivoted", center=center)
                calls += 8
            ends = [0, n // 3, n // 3, n]
            keeps = [0, min(2, n // 3), min(2, n // 3), min(2, n // 3) + min(3, n - n // 3)]
            for solver in ("eigh", "tridiag", "purify"):
                svdprune.prune_varlen(
                    x[0],
                    torch.tensor(ends, dtype=torch.int32, device=device),
                    torch.tensor(keeps, device=device),
                    total_keep=keeps[-1],
                    max_seqlen=n - n // 3,
                    solver=solver,
                )
            svdprune.prune(torch.zeros_like(x), keep)
            svdprune.prune(x, n)
            svdprune.prune(x, 0)
            calls += 6
            if device != "cpu":  # which refuses it
                bad = x.clone()
                bad[-1, -1, -1] = float("nan")
                svdprune.prune(bad, keep)
                svdprune.prune(bad, keep, solver="tridiag")
                calls += 2
        svdprune.leverage_scores(torch.randn(MANY_TOKENS, device=device).to(dtype))
        svdprune.prune(torch.zeros(0, 5, 4, device=device, dtype=dtype), 2)
        calls += 2
        q, k = (
            torch.randn(2, heads, 37, 24, generator=generator, dtype=torch.float64).to(
                device, dtype
            )
            for heads in (4, 2)
        )
        raters = torch.tensor([[30, 35, -1], [36, 2, 8]], device=device)
        visual = torch.arange(5, 26, device=device).repeat(2, 1)
        mask = torch.ones(2, 37, dtype=torch.bool, device=device)
        mask[0, :4] = False
        svdprune.rater_scores(q, k, raters, visual, mask=mask)
        svdprune.rater_scores_by_head(q, k, raters, visual, mask=mask)
        calls += 2
    for shape in STEEP_QUICK if quick else STEEP:
        x = torch.randn(shape, device=device) * 0.5 ** torch.arange(shape[-1], device=device)
        svdprune.prune(x, 40, solver="tridiag")
        svdprune.prune(x, 40, select="pivoted")
        calls += 2
    return calls


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line, the process's own by default."""
    parser = argparse.ArgumentParser(prog="bench.gpu_small", description=__doc__)
    parser.add_argument("device", nargs="?", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("shapes", nargs="?", default="", choices=("", "quick"))
    options = parser.parse_args(arguments)
    calls = run(options.device, options.shapes == "quick")
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    print(f"{calls} calls")


if __name__ == "__main__":
    main()
