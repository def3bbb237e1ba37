"""The library of torch operators, and their arguments that are options."""

from __future__ import annotations

import typing

import torch

library = torch.library.Library("autoep", "FRAGMENT")

_TYPES = {int: "int", float: "float"}


def arguments_of(options: type[tuple]) -> str:
    """The fields of a NamedTuple of numbers, as the arguments of an operator's schema."""
    types = typing.get_type_hints(options)
    return ", ".join(f"{_TYPES[kind]} {name}" for name, kind in types.items())
