"""The names of modules that PEFT has wrapped."""

from __future__ import annotations

WRAPPED = "base_layer"  # PEFT's name of the module inside a wrapper


def without_wrappers(name: str) -> str:
    """Returns the name that a module would have if PEFT had not wrapped it."""
    while name.endswith(f".{WRAPPED}"):
        name = name.removesuffix(f".{WRAPPED}")
    return name
