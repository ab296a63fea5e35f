"""Arrays of other libraries (NumPy, CuPy, JAX) in and out of the operators through DLPack, without a copy.

Note [one library a call]
An array comes in by ``torch.from_dlpack``, which also orders torch's stream after the array's, and the
results go out by ``from_dlpack`` of the array's own library. A call takes arrays of one library only,
since that is the library its results belong to. Gradients do not cross: an array has none. JAX makes int32 of
the int64 indices unless its x64 mode is on.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.fx import Proxy
from typing_extensions import TypeVar  # typing's has defaults from Python 3.13 on


class SupportsDLPack(Protocol):
    """A tensor, or an array that follows the DLPack protocol."""

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...


Array = TypeVar("Array", bound=SupportsDLPack, default=Tensor)
Result = TypeVar("Result", bound=tuple[Any, ...])

# Where the way back is neither ``__array_namespace__`` nor the root module of the array's type.
_NAMESPACES = {"jax": "jax.numpy", "jaxlib": "jax.numpy"}

# What the wrappers hand to the operators as it is. torch.fx.symbolic_trace calls them with a Proxy; its items
# come by assignment to names, not by ``*``.
TENSORS: tuple[Any, ...] = (Tensor, Proxy)


def call_with_arrays(
    function: Callable[..., Result], arrays: dict[str, Any], **options: Any
) -> Result:
    """Calls a wrapper of an operator, which takes tensors, with arrays of one other library.

    Args:
        function: The wrapper, of the operator's name; returns a NamedTuple of tensors.
        arrays: Its array arguments by name.
        options: Its other arguments.

    Returns:
        The same NamedTuple, of arrays of that library on the same device.

    Raises:
        TypeError: An argument is no array, or they are of different libraries, or the library has no
            ``from_dlpack``.
        ValueError: An array's layout or dtype cannot go through DLPack.
    """
    op = function.__name__
    if torch.compiler.is_compiling():
        got = ", ".join(f"{name}: {_type_name(array)}" for name, array in arrays.items())
        raise TypeError(f"svdprune::{op}: arrays must be tensors where it is compiled, got {got}")
    libraries = {name: _library_of(op, name, array) for name, array in arrays.items()}
    library = next(iter(libraries.values()))
    if any(other is not library for other in libraries.values()):
        *names, last = arrays
        got = ", ".join(f"{name}: {_type_name(array)}" for name, array in arrays.items())
        raise TypeError(
            f"svdprune::{op}: {', '.join(names)} and {last} must be arrays of one library, got {got}"
        )
    result = function(
        **{name: _to_tensor(op, name, array) for name, array in arrays.items()}, **options
    )
    return type(result)(*(library.from_dlpack(tensor) for tensor in result))


def _library_of(op: str, name: str, array: Any) -> ModuleType:
    """The module whose ``from_dlpack`` makes arrays of the same kind."""
    if isinstance(array, Tensor):
        return torch
    if not hasattr(array, "__dlpack__"):
        raise TypeError(
            f"svdprune::{op}: {name} must be a Tensor or an array with __dlpack__, "
            f"got {type(array).__name__}"
        )
    masked = sys.modules.get("numpy.ma")  # has been imported, where the array is of it
    if masked is not None and isinstance(array, masked.MaskedArray):
        raise TypeError(
            f"svdprune::{op}: {name} must be an array without a mask, got {_type_name(array)}"
        )
    if hasattr(array, "__array_namespace__"):
        library = array.__array_namespace__()
    else:
        root = type(array).__module__.partition(".")[0]
        known = _NAMESPACES.get(root)
        library = importlib.import_module(known) if known else sys.modules.get(root)
    if not hasattr(library, "from_dlpack"):
        raise TypeError(
            f"svdprune::{op}: {name} must be a Tensor or an array of a library with from_dlpack, "
            f"got {_type_name(array)}"
        )
    return library  # type: ignore[no-any-return]


def _to_tensor(op: str, name: str, array: Any) -> Tensor:
    # torch.from_dlpack aborts the process on a negative stride (seen in torch 2.13), so it is asked first.
    if any(stride < 0 for stride in getattr(array, "strides", None) or ()):
        raise ValueError(
            f"svdprune::{op}: {name} must have no negative stride, got strides {array.strides} in "
            "bytes; pass a copy of the flipped array"
        )
    try:
        return torch.from_dlpack(array)  # type: ignore[attr-defined]
    except (AttributeError, BufferError, RuntimeError, TypeError, ValueError) as error:
        dtype = getattr(array, "dtype", "unknown dtype")
        raise ValueError(
            f"svdprune::{op}: {name} must be an array that torch takes through DLPack, got "
            f"{_type_name(array)} of {dtype}: {error}"
        ) from error


def _type_name(array: Any) -> str:
    kind = type(array)
    return f"{kind.__module__}.{kind.__qualname__}"
