"""Runs something right after a module of another library was imported, now or later."""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

Action = Callable[[ModuleType], None]


class _AfterImport:
    """A finder that finds nothing itself: it has the others do so, and adds to what they found."""

    def __init__(self) -> None:
        self.actions: dict[str, Action] = {}

    def find_spec(
        self, name: str, path: Any = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in self.actions:
            return None
        others = [f for f in sys.meta_path if f is not self and hasattr(f, "find_spec")]
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            _act_after(spec.loader, self.actions[name])
        return spec


_finder = _AfterImport()


def after_import(name: str, action: Action) -> None:
    """Calls `action` with a module: at once if it is imported, else when it will have been."""
    if name in sys.modules:
        action(sys.modules[name])
        return
    _finder.actions[name] = action
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def _act_after(loader: Any, action: Action) -> None:
    """The loader stays what it is, with its sources and resources; its last step does more."""
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        action(module)

    loader.exec_module = exec_module
