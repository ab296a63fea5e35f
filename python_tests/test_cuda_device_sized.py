"""Solver "tridiag" on CUDA at the sizes of vision towers, in blocks as large as on a device, on the CPU."""

import emulated
import emulated_backend
import pytest
import torch
from backends import Backend
from conftest import built_once
from samples import gaussian, photograph, power_law, with_spectrum
from test_cuda_tridiag import assert_tridiag_agrees, ran

pytestmark = pytest.mark.skipif(
    bool(emulated_backend.why_not()), reason=emulated_backend.why_not() or "can be emulated"
)
NAMESPACE = "svdprune_device_sized"


@pytest.fixture(scope="module")
def device_sized(tmp_path_factory, kernels):
    """The whole CUDA backend, with the one kernel that a device runs in more threads compiled anew."""

    def build(folder):
        own = emulated.compile_objects(folder, [emulated.KERNELS / "eig_select.cu"])
        others = [kernel for kernel in kernels if kernel.name != own[0].name]
        emulated_backend.build(folder, [*others, *own], NAMESPACE, ())

    return built_once(tmp_path_factory, "device_sized", build) / "emulated_backend.so"


def steep(images, n, d):
    return torch.stack(
        [with_spectrum(n, d, power_law(min(n, d), 1.7), seed=b) for b in range(images)]
    )


CASES = {
    "CLIP-L, 336 px": lambda: photograph(),
    "CLIP-L, 336 px, 16 bits": lambda: photograph().bfloat16(),
    "CLIP-L, 224 px": lambda: steep(1, 256, 1024),
    "SigLIP so400m, 384 px": lambda: steep(1, 729, 1152),
    "InternViT, 448 px": lambda: steep(1, 1024, 1024),
    "more tokens than features": lambda: steep(1, 1100, 600),
    "a batch for clusters of 8 blocks": lambda: steep(9, 260, 260),
    "to the last step": lambda: gaussian(160, 200),
}


@pytest.mark.parametrize("case", CASES)
def test_it_agrees_with_the_oracle(device_sized, case):
    x = CASES[case]()
    with emulated_backend.in_place_of_the_operators(device_sized, NAMESPACE) as state:
        assert set(ran(x)[0]) == {"tridiag"}
        assert_tridiag_agrees(Backend("emulated", "cpu", state), x, 32)
