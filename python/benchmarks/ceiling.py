"""The highest rate of a device in this run, to which rates are compared."""

from __future__ import annotations

from typing import Protocol

from cpu_peak import CPUPeak, has_cpu_peak
from measure import product_tflops
from shapes import DTYPES


class Ceiling(Protocol):
    """A rate that is measured repeatedly, between the calls that are compared with it.

    Attributes:
        name: The name of what is measured.
    """

    name: str

    def tflops(self, dtype: str) -> float:
        """Measures the rate once."""


class RegisterPeak:
    """The ceiling of a processor: products of registers."""

    name = "the peak"

    def __init__(self, threads: int) -> None:
        self._peak = CPUPeak(threads)

    def tflops(self, dtype: str) -> float:
        """Measures the rate once."""
        return self._peak.tflops(dtype)


class PlainProduct:
    """The ceiling of a GPU, or of a processor without such a loop: one large product."""

    name = "a plain product"

    def __init__(self, device: str) -> None:
        self._device = device

    def tflops(self, dtype: str) -> float:
        """Measures the rate once."""
        return product_tflops(DTYPES[dtype], self._device)


def ceiling_of(device: str, threads: int) -> Ceiling:
    """Returns the highest ceiling that can be measured on a device."""
    if device == "cpu" and has_cpu_peak():
        return RegisterPeak(threads)
    return PlainProduct(device)
