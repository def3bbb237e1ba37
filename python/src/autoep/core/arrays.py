"""The only module that handles both torch tensors and numpy arrays: kinds, allocation, views.

Neither library is imported here; both are looked up in `sys.modules`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from autoep.core.host_memory import LARGE, pool
from autoep.errors import InvalidArgumentError

if TYPE_CHECKING:
    import numpy
    import torch

    Array: TypeAlias = torch.Tensor | numpy.ndarray
else:
    Array = Any

# Bytes: the alignment of the memory that the engine receives as uint8 arrays.
_ALIGNMENT = 64


def is_torch(x: Any) -> bool:
    """Whether `x` is a torch tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def on_gpu(x: Any) -> bool:
    """Whether `x` is a torch tensor on a CUDA device."""
    return is_torch(x) and x.is_cuda


def is_numpy(x: Any) -> bool:
    """Whether `x` is a numpy array."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(x, numpy.ndarray)


def check_array(name: str, x: Any, ndim: int | None) -> None:
    """Raises unless `x` is a tensor or an array that the engine accepts.

    Args:
        name: The argument's name in error texts.
        x: The tensor or array.
        ndim: The number of dimensions it must have; None for any.
    """
    if is_torch(x):
        if hasattr(x, "to_local") and type(x) is not sys.modules["torch"].Tensor:
            raise InvalidArgumentError(
                f"{name}: got a DTensor; pass its local shard, {name}.to_local()"
            )
        if x.layout is not sys.modules["torch"].strided:
            raise InvalidArgumentError(f"{name}: expected a dense tensor, got layout {x.layout}")
    elif not is_numpy(x):
        raise InvalidArgumentError(
            f"{name}: expected a torch.Tensor or a numpy.ndarray, got {type(x).__name__}"
        )
    if ndim is not None and x.ndim != ndim:
        raise InvalidArgumentError(f"{name}: expected {ndim} dimensions, got shape {list(x.shape)}")


def dense(x: Array | None) -> Array | None:
    """Returns an array in the engine's form: row-major and detached from autograd."""
    if x is None:
        return None
    if is_torch(x):
        return (x.detach() if x.requires_grad else x).contiguous()
    return sys.modules["numpy"].ascontiguousarray(x) if x.ndim else x


def plain(name: str, x: Any, ndim: int | None) -> Array:
    """Checks an array and returns it as `dense` does; `check_array` documents the arguments."""
    check_array(name, x, ndim)
    return dense(x)


def same_kind(first_name: str, first: Any, **others: Any) -> None:
    """Raises unless all arrays belong to the library of the first; None always passes."""
    of_torch = is_torch(first)
    for name, other in others.items():
        if other is not None and is_torch(other) != of_torch:
            raise InvalidArgumentError(
                f"{name}: expected the library of {first_name} ({_library(first)}), got"
                f" {type(other).__name__}"
            )


def _library(x: Any) -> str:
    return "torch" if is_torch(x) else "numpy"


def dtype_name(x: Array) -> str:
    """Returns the dtype's name, which both libraries share: "float32", "bfloat16", "int64", ..."""
    return str(x.dtype).removeprefix("torch.")


def empty(
    like: Array, shape: Sequence[int], dtype: str | None = None, *, brief: bool = False
) -> Array:
    """Returns an uninitialised array of the library and device of `like`.

    Large arrays in host memory use the pool of `host_memory`.

    Args:
        like: The array to follow.
        shape: The new array's shape.
        dtype: The new array's dtype by name; that of `like` if None.
        brief: Whether it is used for one call only; it may then use a larger block of the pool.
    """
    of_torch = is_torch(like)
    library = sys.modules["torch" if of_torch else "numpy"]
    new_dtype = like.dtype if dtype is None else getattr(library, dtype)
    if of_torch and not like.is_cpu:
        return like.new_empty(tuple(shape), dtype=new_dtype)
    # The CPU explicitly: torch may have another default device.
    device = {"device": "cpu"} if of_torch else {}
    count = math.prod(shape)
    size = count * (new_dtype if of_torch else library.dtype(new_dtype)).itemsize
    if size < LARGE or not _is_in_host_memory(like):
        return library.empty(tuple(shape), dtype=new_dtype, **device)
    flat = library.frombuffer(pool.take(size, brief=brief), dtype=new_dtype, count=count)
    if not of_torch:
        return flat.reshape(*shape)
    # Not a view of `flat`: a view that a Function returns cannot be modified in place.
    whole = library.empty(0, dtype=new_dtype, **device)
    return whole.set_(flat.untyped_storage(), 0, tuple(shape))


def _is_in_host_memory(x: Array) -> bool:
    """Whether new arrays like `x` may use pooled memory; False for the tensors of tracers."""
    if not is_torch(x):
        return True
    torch = sys.modules["torch"]
    return x.is_cpu and type(x) in (torch.Tensor, torch.nn.Parameter)


def array_of(values: Sequence[int], like: Array) -> Array:
    """Returns integers as an int64 array of the library and device of `like`."""
    library = sys.modules[_library(like)]
    options = {"device": like.device} if is_torch(like) else {}
    return library.asarray(values, dtype=library.int64, **options)


def workspace(like: Array, size: int) -> Array:
    """Returns `memory` for one call only."""
    return memory(like, size, brief=True)


def memory(like: Array, size: int, *, brief: bool = False) -> Array:
    """Returns uninitialised bytes, aligned for the engine, of the library and device of `like`."""
    if is_torch(like):
        # torch aligns what it allocates to 64 bytes on the CPU, and to more on GPUs.
        return empty(like, (size,), "uint8", brief=brief)
    block = empty(like, (size + _ALIGNMENT,), "uint8", brief=brief)
    start = -block.ctypes.data % _ALIGNMENT
    return block[start : start + size]
