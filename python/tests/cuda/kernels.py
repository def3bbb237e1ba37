"""The portable kernels: the preludes of each file, and the ways in which it is compiled."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import nvrtc
import torch

F32, BF16, F16 = 1, 2, 3
CODES = {None: 0, torch.float32: F32, torch.bfloat16: BF16, torch.float16: F16}

_BASE = ("instructions.cuh", "element.cuh")
_FAULTS = (*_BASE, "fault.cuh")
_TILES = (*_BASE, "operand.cuh", "groups.cuh", "f32_tile.cuh", "tensor_core_tile.cuh")

# Elements of 16 bytes.
_WIDE = {F32: 4, BF16: 8, F16: 8}
_ROWS = [{"ELEMENT": e, "VECTOR": v} for e in _WIDE for v in (1, _WIDE[e])]
_ACTIVATIONS = [
    {"ACTIVATION": a, "GATE": g} for a in (1, 2, 3, 4, 5) for g in (1, 2, 3) if a != 5 or g != 1
]


def _defines_of(choices: Iterable[dict[str, int]]) -> tuple[str, ...]:
    defines = {key: value for choice in choices for key, value in choice.items()}
    return tuple(f"{key}={value}" for key, value in defines.items())


def _each(name: str, *values: int) -> list[dict[str, int]]:
    return [{name: value} for value in values]


@dataclass(frozen=True)
class KernelFile:
    """A file of kernels behind its preludes.

    Attributes:
        parts: The preludes, and then the file.
        axes: What it is compiled with: one choice of each.
    """

    parts: tuple[str, ...]
    axes: list[list[dict[str, int]]] = field(default_factory=list)

    def variants(self) -> Iterator[tuple[str, ...]]:
        """All ways in which the file is compiled, as "NAME=value"."""
        for choices in itertools.product(*self.axes):
            yield _defines_of(choices)

    def every_choice(self) -> Iterator[tuple[str, ...]]:
        """Variants in which each choice of each axis comes up, with the last of the others."""
        last = [axis[-1] for axis in self.axes]
        yield _defines_of(last)
        for index, axis in enumerate(self.axes):
            for choice in axis[:-1]:
                yield _defines_of([*last[:index], choice, *last[index + 1 :]])


_WEIGHTS = _each("WEIGHT", 0, 1, 2, 3)
_DOT_WEIGHTS = _each("WEIGHT", 1, 2, 3)
_GROUPS = _each("GROUPS", 0, 4, 8)
_SUMS = [
    {"OUT": 1, "ACCUMULATE": 0},
    {"OUT": 1, "ACCUMULATE": 1},
    {"OUT": 2, "ACCUMULATE": 0},
    {"OUT": 3, "ACCUMULATE": 0},
]
_PRODUCTS = [
    {"ELEMENT": F32, "ALIGNED": 0},
    *({"ELEMENT": e, "ALIGNED": a} for e in (BF16, F16) for a in (0, 1)),
]
_ROUTERS = [_each("ELEMENT", F32, BF16, F16), _each("PER_LANE", 1, 2, 4, 8, 16, 32)]

FILES = {
    "sort_by_expert": KernelFile((*_FAULTS, "sort_by_expert.cu"), [_each("INDEX_BYTES", 4, 8)]),
    "permute": KernelFile((*_BASE, "permute.cu"), [_ROWS, _WEIGHTS]),
    "unpermute": KernelFile((*_BASE, "unpermute.cu"), [_ROWS, _WEIGHTS]),
    "slot_dot": KernelFile((*_BASE, "slot_dot.cu"), [_ROWS, _DOT_WEIGHTS]),
    "gather_partials": KernelFile((*_BASE, "gather_partials.cu"), [_DOT_WEIGHTS]),
    "activate": KernelFile((*_BASE, "activation.cuh", "activate.cu"), [_ROWS, _ACTIVATIONS]),
    "activate_backward": KernelFile(
        (*_BASE, "activation.cuh", "activate_backward.cu"),
        [
            _ROWS,
            _ACTIVATIONS,
            [{"WEIGHT": 0, "DOWN_BIAS": 0}]
            + [{"WEIGHT": w, "DOWN_BIAS": b} for w in (1, 2, 3) for b in (0, 1)],
        ],
    ),
    "row_sum": KernelFile((*_BASE, "groups.cuh", "row_sum.cu"), [_ROWS, _WEIGHTS, _GROUPS, _SUMS]),
    "portable_grouped_gemm": KernelFile(
        (*_TILES, "portable_grouped_gemm.cu"), [_PRODUCTS, _GROUPS, _each("LAYOUT", 1, 2)]
    ),
    "portable_weight_gradient": KernelFile(
        (*_TILES, "portable_weight_gradient.cu"), [_PRODUCTS, _GROUPS, _SUMS]
    ),
    "route": KernelFile((*_FAULTS, "router.cuh", "route.cu"), _ROUTERS),
    "route_backward": KernelFile((*_FAULTS, "router.cuh", "route_backward.cu"), _ROUTERS),
    "z_loss": KernelFile((*_BASE, "z_loss.cu"), [_each("ELEMENT", F32, BF16, F16)]),
    "jitter": KernelFile((*_BASE, "jitter.cu"), [_each("ELEMENT", F32, BF16, F16)]),
}


@functools.cache
def load(name: str, **defines: int) -> nvrtc.Module:
    """A file's kernels on the current device, compiled in one of its variants."""
    return nvrtc.Module(
        FILES[name].parts, tuple(f"{key}={value}" for key, value in defines.items())
    )
