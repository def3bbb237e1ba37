"""Writes docs/configuration.md, the reference of the configuration's keys, from its schema.

python docs/scripts/configuration.py            # writes the page
python docs/scripts/configuration.py --check    # exits with 1 if the page is not current
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autoep.config.schema import Refusal
from autoep.config.training import Config
from autoep.training.schedulers import WarmupCosineLR, WarmupDecayLR, WarmupLR

PAGE = Path(__file__).parents[1] / "configuration.md"

_HEADER = """\
# Configuration keys

<!-- Written by docs/scripts/configuration.py (`make configuration`) from the schema. -->

`autoep.initialize` takes the configuration as the path of a JSON file, as a dict, or as an
`autoep.config.training.Config`. The keys are DeepSpeed's where DeepSpeed has them. `"auto"`
selects the default of any key. An unknown key, a value of the wrong kind, and a key that AutoEP
does not honour raise `autoep.ConfigError`; no key is ignored.

A small complete example:

```json
{
  "train_micro_batch_size_per_gpu": 4,
  "gradient_accumulation_steps": 2,
  "gradient_clipping": 1.0,
  "bf16": { "enabled": true },
  "optimizer": { "type": "AdamW", "params": { "lr": 1e-4 } },
  "scheduler": { "type": "WarmupLR", "params": { "warmup_num_steps": 100 } },
  "expert_parallel": { "enabled": true, "autoep_size": "auto" }
}
```

The tables "Refused" list keys of DeepSpeed that AutoEP does not honour. The values in their last
column ask for what AutoEP does anyway, and are accepted.
"""


def page() -> str:
    """The page."""
    parts = [_HEADER, *_section("Top level", "", Config)]
    for field in dataclasses.fields(Config):
        if _is_section(field):
            parts += _section(f"`{field.name}`", field.name, field.default_factory)
    parts += ["## `scheduler.params` of the warm-ups\n"]
    for kind in (WarmupLR, WarmupDecayLR, WarmupCosineLR):
        parts += [f"### {kind.__name__}\n", *_contents(kind)]
    return "\n".join(parts)


def _section(title: str, name: str, contents: type) -> Iterator[str]:
    yield f"## {title}\n"
    yield from _contents(contents, name)


def _contents(contents: type, name: str = "") -> Iterator[str]:
    summary = inspect.getdoc(contents).split("\n\n")[0].replace("\n", " ")
    summary = summary.removeprefix(f"`{name}`: ")
    yield f"{summary[0].upper()}{summary[1:]}\n"
    yield from _table(
        ("key", "allowed", "default", "meaning"),
        (_row(field, _meanings(contents)) for field in _keys(contents)),
    )
    refused: dict[str, Refusal] = getattr(contents, "refused", {})
    if refused:
        yield "Refused:\n"
        yield from _table(
            ("key", "reason", "accepted"),
            ((f"`{key}`", refusal.reason, _accepted(refusal)) for key, refusal in refused.items()),
        )
    for field in dataclasses.fields(contents):
        if "inline" in field.metadata:
            title = field.name.replace("_", " ").capitalize()
            yield f"### {title}\n"
            yield "These keys stand beside the others of the section.\n"
            yield from _contents(field.metadata["inline"])


def _keys(contents: type) -> Iterator[dataclasses.Field[Any]]:
    """The fields that are keys, but for records whose keys stand among the section's own."""
    return (f for f in dataclasses.fields(contents) if "inline" not in f.metadata)


def _row(field: dataclasses.Field[Any], meanings: dict[str, str]) -> tuple[str, ...]:
    if _is_section(field):
        return f"`{field.name}`", f"an object: [see below](#{field.name})", "", ""
    default = field.default
    if default is dataclasses.MISSING:
        default = field.default_factory()
    allowed = field.metadata["kind"].allowed
    allowed = re.sub(r"'([^']*)'", r'`"\1"`', allowed)
    return f"`{field.name}`", allowed, f"`{json.dumps(default)}`", meanings.get(field.name, "")


def _accepted(refusal: Refusal) -> str:
    values = [f"`{json.dumps(value)}`" for value in refusal.harmless]
    if refusal.enabled_only:
        values.append('`{"enabled": false}`')
    return ", ".join(values)


def _is_section(field: dataclasses.Field[Any]) -> bool:
    return dataclasses.is_dataclass(field.default_factory)


def _meanings(contents: type) -> dict[str, str]:
    """The texts of the section Attributes of a class and of those that it is derived from."""
    found: dict[str, str] = {}
    for kind in reversed(contents.__mro__):
        text = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")[2]
        for match in re.finditer(r"^    (\w+): (.*(?:\n      .*)*)", text, re.MULTILINE):
            found[match[1]] = " ".join(match[2].split())
    return found


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    lines = [head, ("---",) * len(head), *rows]
    cells = (" | ".join(cell.replace("|", "\\|") for cell in line) for line in lines)
    yield "".join(f"| {line} |\n" for line in cells)


def main() -> int:
    """Writes or checks the page; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if not current")
    current = page()
    if not parser.parse_args().check:
        PAGE.write_text(current, encoding="utf-8")
    elif current != PAGE.read_text(encoding="utf-8"):
        print(f"{PAGE} is not current; run `make configuration`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
