"""Arrays of other libraries through DLPack: the same results as torch's, in the array's own kind."""

import inspect
import re

import numpy as np
import pytest
import torch
from samples import gaussian

import svdprune_ext as svdprune
from svdprune_ext import arrays as dlpack

LENGTHS = np.array([0, 4, 9])
KEEPS = np.array([0, 2, 5])


class Bare:
    """The least of an array; ``from_dlpack`` of this module, below, is its library's."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __dlpack__(self, *, stream=None):
        return self.tensor.__dlpack__(stream=stream)

    def __dlpack_device__(self):
        return self.tensor.__dlpack_device__()


def from_dlpack(array):
    return Bare(torch.from_dlpack(array))


class Namespaced(Bare):
    """The same, with a namespace that tells how to come back."""

    def __array_namespace__(self):
        return Namespace


class Namespace:
    @staticmethod
    def from_dlpack(array):
        return Namespaced(torch.from_dlpack(array))


# A library that exports and does not import.
Orphan = type("Orphan", (Bare,), {"__module__": "no_such_library"})


def cupy_and_gpu():
    cupy = pytest.importorskip("cupy", reason="cupy is not installed")
    if not (torch.cuda.is_available() and svdprune.has_cuda):
        pytest.skip("CuPy needs a GPU and a build with the CUDA backend")
    return cupy


def calls(x, flat, lengths, keeps):
    """Every operator, on arrays of one kind."""
    return {
        "leverage_scores": lambda: svdprune.leverage_scores(x),
        "prune": lambda: svdprune.prune(x, 3, variance=0.8),
        "prune_adaptive": lambda: svdprune.prune_adaptive(x, 4, coverage=0.5, center=True),
        "prune_varlen": lambda: svdprune.prune_varlen(flat, lengths, keeps, rank=3),
        "prune_varlen told": lambda: svdprune.prune_varlen(
            flat, lengths, keeps, total_keep=5, max_seqlen=5, solver="eigh"
        ),
    }


OPS = ["leverage_scores", "prune", "prune_adaptive", "prune_varlen", "prune_varlen told"]
every_op = pytest.mark.parametrize("name", OPS)


@every_op
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
def test_numpy_gives_what_torch_gives(name, dtype):
    tensors = [gaussian(2, 9, 12, dtype=dtype), gaussian(9, 12, dtype=dtype)]
    tensors += [torch.from_numpy(LENGTHS), torch.from_numpy(KEEPS)]
    expected = calls(*tensors)[name]()
    got = calls(*(t.numpy() for t in tensors))[name]()
    assert type(got) is type(expected)
    for a, b in zip(got, expected, strict=True):
        assert type(a) is np.ndarray
        assert a.flags.writeable
        np.testing.assert_array_equal(a, b.numpy(), strict=True)


def test_numpy_image_without_a_batch():
    x = gaussian(9, 12)
    got, expected = svdprune.prune(x.numpy(), 3), svdprune.prune(x, 3)
    assert got.rank.shape == ()
    assert got.rank == expected.rank.item()


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


LAYOUTS = {
    "contiguous": lambda x: x,
    "columns first": np.asfortranarray,
    "strided": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "read-only": read_only,
    "broadcast": lambda x: np.broadcast_to(x[:1], x.shape),
    "memory-mapped": None,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.filterwarnings("error")
def test_numpy_layouts(layout, tmp_path):
    x = gaussian(9, 12).numpy()
    if layout == "memory-mapped":
        np.save(tmp_path / "x.npy", x)
        x = np.load(tmp_path / "x.npy", mmap_mode="r")
    else:
        x = LAYOUTS[layout](x)
    before = x.copy()
    got = svdprune.prune(x, 3)
    assert type(got.tokens) is np.ndarray
    np.testing.assert_array_equal(got.tokens, x[got.indices])
    np.testing.assert_array_equal(x, before)


def test_nothing_is_copied(monkeypatch):
    x = gaussian(9, 12).numpy()
    seen = []

    def look(**arguments):
        seen.append(arguments["x"].data_ptr())
        out = svdprune.prune(**arguments)
        seen.append(out.tokens.data_ptr())
        return out

    look.__name__ = "prune"
    out = dlpack.call_with_arrays(look, {"x": x}, keep=3)
    assert seen == [x.ctypes.data, out.tokens.ctypes.data]


def test_the_result_outlives_the_call():
    tokens = svdprune.prune(gaussian(9, 12).numpy(), 3).tokens
    expected = tokens.copy()
    for seed in range(20):
        svdprune.prune(gaussian(9, 12, seed=seed), 3)
    np.testing.assert_array_equal(tokens, expected)


@every_op
@pytest.mark.parametrize("kind", [Bare, Namespaced])
def test_any_array_with_dlpack(name, kind):
    tensors = [gaussian(2, 9, 12), gaussian(9, 12)]
    tensors += [torch.from_numpy(LENGTHS), torch.from_numpy(KEEPS)]
    expected = calls(*tensors)[name]()
    got = calls(*(kind(t) for t in tensors))[name]()
    for a, b in zip(got, expected, strict=True):
        assert type(a) is kind
        assert torch.equal(a.tensor, b)


@every_op
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_cupy_gives_what_torch_gives(name, dtype):
    cupy = cupy_and_gpu()
    arrays = [gaussian(2, 9, 12).numpy().astype(dtype), gaussian(9, 12).numpy().astype(dtype)]
    arrays += [LENGTHS, KEEPS]
    expected = calls(*(torch.from_numpy(a).cuda() for a in arrays))[name]()
    with cupy.cuda.Stream(non_blocking=True):
        got = calls(*(cupy.asarray(a) for a in arrays))[name]()
        for a, b in zip(got, expected, strict=True):
            assert isinstance(a, cupy.ndarray)
            np.testing.assert_array_equal(cupy.asnumpy(a), b.cpu().numpy(), strict=True)


def test_cupy_is_not_copied():
    cupy = cupy_and_gpu()
    x = cupy.asarray(gaussian(9, 12).numpy())
    assert torch.from_dlpack(x).data_ptr() == x.data.ptr


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_jax_gives_what_torch_gives(device, monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    jax = pytest.importorskip("jax", reason="jax is not installed")
    if device == "gpu" and not (
        jax.default_backend() == "gpu" and torch.cuda.is_available() and svdprune.has_cuda
    ):
        pytest.skip("this needs a GPU, JAX for it, and a build with the CUDA backend")
    x = gaussian(9, 12)
    array = jax.device_put(x.numpy(), jax.devices(device)[0])
    got = svdprune.prune(array, 3)
    expected = svdprune.prune(x.cuda() if device == "gpu" else x, 3)
    for a, b in zip(got, expected, strict=True):
        assert isinstance(a, jax.Array)
        assert a.devices() == array.devices()
        np.testing.assert_array_equal(np.asarray(a), b.cpu().numpy())


def test_jax_is_found_by_the_name_of_its_types(monkeypatch):
    fake = inspect.getmodule(from_dlpack)
    monkeypatch.setattr(dlpack.importlib, "import_module", {"jax.numpy": fake}.__getitem__)
    old = type("ArrayImpl", (Bare,), {"__module__": "jaxlib.xla_extension"})
    assert dlpack._library_of("prune", "x", old(gaussian(2, 3))) is fake


# What is refused, and how.


def refused(error, message):
    return pytest.raises(error, match=re.escape(f"svdprune::prune{message}"))


def test_arrays_of_two_libraries():
    flat = gaussian(9, 12)
    with refused(
        TypeError,
        "_varlen: x, cu_seqlens and cu_keep must be arrays of one library, got x: torch.Tensor, "
        "cu_seqlens: numpy.ndarray, cu_keep: numpy.ndarray",
    ):
        svdprune.prune_varlen(flat, LENGTHS, KEEPS)
    with refused(TypeError, "_varlen: x, cu_seqlens and cu_keep must be arrays of one library"):
        svdprune.prune_varlen(flat.numpy(), LENGTHS, torch.from_numpy(KEEPS))


def test_a_masked_array():
    x = np.ma.masked_array(gaussian(9, 12).numpy())
    with refused(TypeError, ": x must be an array without a mask, got numpy.ma"):
        svdprune.prune(x, 3)


def test_a_mask_of_another_library_is_its_own_matter():
    x = Bare(gaussian(9, 12))
    x.mask = None
    assert torch.equal(svdprune.prune(x, 3).indices.tensor, svdprune.prune(x.tensor, 3).indices)


def test_arrays_in_a_compiled_function():
    torch._dynamo.reset()
    x = gaussian(9, 12).numpy()
    compiled = torch.compile(lambda x: svdprune.prune(x, 3).indices, backend="eager")
    np.testing.assert_array_equal(compiled(x), svdprune.prune(x, 3).indices)


def test_offsets_that_are_no_array():
    for x in (gaussian(9, 12), gaussian(9, 12).numpy()):
        lengths = torch.from_numpy(LENGTHS) if isinstance(x, torch.Tensor) else LENGTHS
        message = "_varlen: cu_keep must be a Tensor or an array with __dlpack__, got list"
        with refused(TypeError, message):
            svdprune.prune_varlen(x, lengths, [0, 2, 5])


def test_a_library_that_takes_nothing_back():
    with refused(
        TypeError,
        ": x must be a Tensor or an array of a library with from_dlpack, got no_such_library.Orphan",
    ):
        svdprune.prune(Orphan(gaussian(9, 12)), 3)


@pytest.mark.parametrize("flip", [np.s_[::-1], np.s_[:, ::-1]], ids=["rows", "columns"])
def test_flipped_array(flip):
    with refused(ValueError, ": x must have no negative stride, got strides ("):
        svdprune.prune(gaussian(9, 12).numpy()[flip], 3)


@pytest.mark.parametrize("dtype", [">f4", "longdouble", "object", "U1"])
def test_dtype_that_dlpack_has_not(dtype):
    with refused(ValueError, ": x must be an array that torch takes through DLPack, got numpy"):
        svdprune.prune(np.zeros((9, 5)).astype(dtype), 3)


def test_dtype_that_the_operator_has_not():
    with refused(ValueError, ": x must be float64, float32, float16 or bfloat16, got Long"):
        svdprune.prune(np.zeros((9, 5), np.int64), 3)


def test_arguments_are_checked_as_for_tensors():
    with refused(ValueError, ": keep must be in [0, N] = [0, 9], got 10"):
        svdprune.prune(gaussian(9, 12).numpy(), 10)
    with refused(ValueError, ": x must be finite, got NaN or Inf in x"):
        svdprune.prune(np.full((9, 5), np.nan, np.float32), 3)
