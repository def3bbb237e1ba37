"""What a device can reach at most in this run, beside which rates are told."""

from __future__ import annotations

from typing import Protocol

from cpu_peak import CPUPeak, has_cpu_peak
from measure import product_tflops
from shapes import DTYPES


class Ceiling(Protocol):
    """A rate that is measured again and again, between what is compared with it.

    Attributes:
        name: What the rate is of.
    """

    name: str

    def tflops(self, dtype: str) -> float:
        """Measures it once."""


class RegisterPeak:
    """Of a processor: products of registers."""

    name = "the peak"

    def __init__(self, threads: int) -> None:
        self._peak = CPUPeak(threads)

    def tflops(self, dtype: str) -> float:
        """Measures it once."""
        return self._peak.tflops(dtype)


class PlainProduct:
    """Of a GPU, or a processor without such a loop: one large product."""

    name = "a plain product"

    def __init__(self, device: str) -> None:
        self._device = device

    def tflops(self, dtype: str) -> float:
        """Measures it once."""
        return product_tflops(DTYPES[dtype], self._device)


def ceiling_of(device: str, threads: int) -> Ceiling:
    """The highest ceiling that can be measured on a device."""
    if device == "cpu" and has_cpu_peak():
        return RegisterPeak(threads)
    return PlainProduct(device)
