"""The library of torch operators, and the options among their arguments."""

from __future__ import annotations

import typing

import torch

library = torch.library.Library("autoep", "FRAGMENT")

_TYPES = {int: "int", float: "float"}


def arguments_of(options: type[tuple]) -> str:
    """Returns the fields of a NamedTuple of numbers as arguments of an operator's schema."""
    types = typing.get_type_hints(options)
    return ", ".join(f"{_TYPES[kind]} {name}" for name, kind in types.items())
