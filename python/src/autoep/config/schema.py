"""Reading a configuration into dataclasses: an unknown key, or one of the wrong kind, is an error.

A dataclass declares its keys with `key(default, kind)`. Its table `refused` lists the keys of other
engines that are not supported, each with the reason and with the values that are accepted because
they change nothing.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from autoep.errors import ConfigError

Contents = TypeVar("Contents")

AUTO = "auto"

# The similarity, from 0 to 1, above which a known name is suggested for a wrong one. One letter
# more or less in seven gives .92; "_comment" and "comet" give .77.
_NEAR = 0.8


class Kind(NamedTuple):
    """The values that a key may hold.

    Attributes:
        allowed: Describes them, for errors.
        read: Returns the value to store, given the value and its path; raises `ValueError` without
            a text if the value is not of this kind.
    """

    allowed: str
    read: Callable[[Any, str], Any]


class Refusal(NamedTuple):
    """A key that is not supported.

    Attributes:
        reason: The reason, for the error.
        harmless: Values that are accepted because they ask for what the engine does anyway.
        enabled_only: Whether the key is a section that is accepted while its `enabled` is false.
    """

    reason: str
    harmless: tuple[Any, ...] = ()
    enabled_only: bool = False

    def allows(self, value: Any) -> bool:
        """Returns whether the value only asks for what the engine does anyway."""
        if self.enabled_only and isinstance(value, Mapping):
            return value.get("enabled", False) in (False, AUTO)
        return any(type(value) is type(known) and value == known for known in self.harmless)


def key(default: Any, kind: Kind) -> Any:
    """Declares a key of a section.

    Args:
        default: The value of a key that is absent or "auto", or a class to construct it from.
        kind: The values that the key may hold.
    """
    if isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata={"kind": kind})
    return dataclasses.field(default=default, metadata={"kind": kind})


def section(contents: type) -> Any:
    """Declares a key that holds a section, all of whose keys have defaults."""
    kind = Kind("an object", lambda value, path: read_section(contents, value, path))
    return key(contents, kind)


def inline(contents: type) -> Any:
    """Declares a record of a section whose keys stand among the section's own."""
    return dataclasses.field(default_factory=contents, metadata={"inline": contents})


def read_section(contents: type[Contents], given: Any, path: str = "") -> Contents:
    """Builds a section from a mapping.

    Args:
        contents: A dataclass whose fields are declared with `key`, `section` or `inline`.
        given: The value in the configuration.
        path: The dotted path of the section, empty at the top.

    Raises:
        ConfigError: `given` is not a mapping, or a key is unknown, refused or of the wrong kind.
    """
    if not isinstance(given, Mapping):
        raise wrong_value(path or "the configuration", given, "an object of keys and values")
    kinds = dict(_kinds(contents))
    refused: Mapping[str, Refusal] = getattr(contents, "refused", {})
    values = {}
    for name, value in given.items():
        where = f"{path}.{name}" if path else str(name)
        if name in kinds:
            if value != AUTO:
                values[name] = _read_value(kinds[name], value, where)
        elif name in refused:
            _check_refused(refused[name], value, where)
        else:
            raise _unknown_key(name, where, [*kinds, *refused], list(kinds))
    return _build(contents, values)


def wrong_value(path: str, given: Any, allowed: str, advice: str = "") -> ConfigError:
    """Returns the error for a value that a key may not hold."""
    text = f"config: {path}: given {given!r} ({type(given).__name__}); allowed: {allowed}"
    return ConfigError(f"{text}. {advice}" if advice else text)


def nearest(name: Any, known: list[str]) -> str:
    """Returns a sentence that suggests the known name nearest to a wrong one, or ""."""
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=_NEAR)
    return f' Did you mean "{close[0]}"?' if close else ""


def _kinds(contents: type) -> Iterator[tuple[str, Kind]]:
    """Yields the keys of a section in order, including those of inline records."""
    for field in dataclasses.fields(contents):
        if "inline" in field.metadata:
            yield from _kinds(field.metadata["inline"])
        else:
            yield field.name, field.metadata["kind"]


def _build(contents: type[Contents], values: Mapping[str, Any]) -> Contents:
    """Builds a section and its inline records from the values of all of their keys."""
    own = {}
    for field in dataclasses.fields(contents):
        if "inline" in field.metadata:
            own[field.name] = _build(field.metadata["inline"], values)
        elif field.name in values:
            own[field.name] = values[field.name]
    return contents(**own)


def _read_value(kind: Kind, value: Any, path: str) -> Any:
    try:
        return kind.read(value, path)
    except ConfigError:
        raise
    except ValueError:
        raise wrong_value(path, value, kind.allowed) from None


def _check_refused(refusal: Refusal, value: Any, path: str) -> None:
    if not refusal.allows(value):
        raise ConfigError(
            f"config: {path}: given {value!r}, which is not supported: {refusal.reason}."
            " Remove the key."
        )


def _unknown_key(name: Any, path: str, known: list[str], listed: list[str]) -> ConfigError:
    return ConfigError(
        f"config: {path}: there is no such key.{nearest(name, known)}"
        f" Keys allowed here: {', '.join(listed)}."
    )


def _whole(low: int) -> Callable[[Any, str], int]:
    def read(value: Any, path: str) -> int:
        if type(value) is not int or value < low:
            raise ValueError
        return value

    return read


def _number(
    low: float, high: float = math.inf, *, above: bool = False
) -> Callable[[Any, str], float]:
    def read(value: Any, path: str) -> float:
        if type(value) not in (int, float) or not math.isfinite(value) or not low <= value <= high:
            raise ValueError
        if above and value == low:
            raise ValueError
        return float(value)

    return read


def _exactly(kind: type) -> Callable[[Any, str], Any]:
    def read(value: Any, path: str) -> Any:
        if not isinstance(value, kind):
            raise ValueError
        return value

    return read


def one_of(*choices: Any) -> Kind:
    """Returns the kind of a key that holds one of the given values."""

    def read(value: Any, path: str) -> Any:
        for choice in choices:
            if type(value) is type(choice) and value == choice:
                return value
        known = [choice for choice in choices if isinstance(choice, str)]
        raise wrong_value(path, value, allowed, nearest(value, known).strip())

    allowed = ", ".join(repr(choice) for choice in choices)
    return Kind(allowed, read)


def optional(kind: Kind) -> Kind:
    """Returns a kind that also allows null."""

    def read(value: Any, path: str) -> Any:
        return None if value is None else kind.read(value, path)

    return Kind(f"{kind.allowed}, or null", read)


def _pattern(value: Any, path: str) -> str:
    try:
        re.compile(value)
    except (TypeError, re.error):
        raise ValueError from None
    return value


POSITIVE = Kind("a whole number of 1 or more", _whole(1))
COUNT = Kind("a whole number of 0 or more", _whole(0))
AMOUNT = Kind("a number of 0 or more", _number(0.0))
ABOVE_ZERO = Kind("a number above 0", _number(0.0, above=True))
SECONDS = Kind("seconds, above 0 and at most 1000000", _number(0.0, 1e6, above=True))
FLAG = Kind("true or false", _exactly(bool))
TEXT = Kind("a string", _exactly(str))
PATTERN = Kind("a regular expression", _pattern)
OBJECT = Kind("an object", _exactly(dict))
