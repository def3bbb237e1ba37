"""The package's rooms import in one direction, and no two modules import each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import autoep

# Nothing imports from a room to its right.
ROOMS = (
    "core",
    "config",
    "distributed",
    "functional",
    "layers",
    "detection",
    "routers",
    "checkpoints",
    "training",
    "integrations",
    "inspection",
    "__init__",
    "cli",
    "__main__",
)
BELOW = ("errors", "_engine")  # what every room may use

PACKAGE = Path(autoep.__file__).parent


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(path: Path) -> Iterator[tuple[str, str]]:
    """Module and name of every import of the package's own, also those within functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


def imports() -> dict[str, set[str]]:
    """The modules that each module imports."""
    paths = {module_name(path): path for path in PACKAGE.rglob("*.py")}
    known = {*paths, "autoep._engine"}
    return {
        module: {
            f"{source}.{name}" if f"{source}.{name}" in known else source
            for source, name in imported_names(path)
            if source.split(".")[0] == "autoep"
        }
        for module, path in paths.items()
    }


def room_of(module: str) -> int:
    """A module's place in the order; -1 for one that every room may use."""
    part = [*module.split("."), "__init__"][1]
    return -1 if part in BELOW else ROOMS.index(part)


def test_every_module_is_in_a_room() -> None:
    assert {room_of(module) for module in imports()} == {*range(len(ROOMS)), -1}


def test_nothing_imports_to_the_right() -> None:
    arrows = [(module, other) for module, others in imports().items() for other in others]
    assert [(a, b) for a, b in arrows if room_of(b) > room_of(a)] == []
    assert len(arrows) > 100, "the search finds imports"


def test_there_is_no_cycle() -> None:
    try:
        TopologicalSorter(imports()).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None
