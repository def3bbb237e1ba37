"""docs/families.md: the results of the parity tests, one section per version of transformers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import transformers

from support.families.parity import NOT_BUILT, Found

PATH = Path(__file__).parents[4] / "docs" / "families.md"

# The families that are tested with transformers' own expert parallelism.
TRIED = [
    "deepseek_v3",  # shared experts, a bias for the choice
    "gpt_oss",  # transposed, biases, interleaved, clamped
    "nemotron_h",  # no gate
    "minimax_m3_vl_text",  # clamped, concatenated
    "aria_text",  # transposed
    "ernie4_5_moe",
    "granitemoe",
    "jamba",
    "lfm2_moe",
    "afmoe",
    "hunyuan_v1_moe",
]

_HEAD = """# Families

What the tests in `python/tests/families` found. The tests write this page (`make families`) and
fail if it is not current. A family is a `model_type` of transformers whose configuration mentions
experts; it is tested as a tiny model with random weights. "works" means that logits, router
logits, auxiliary loss and every gradient equal those of the same model in one plain process, to
1e-12 in float64 (3e-6 in float32 for the families whose own code computes in float32).

- `initialize`: `autoep.initialize` on two ranks, once with all experts on each rank and once with
  the experts sharded. "not built": the tests have no tiny model of the family, for the reason
  given.
- `experts_implementation`: `model.set_experts_implementation("autoep")`. Empty if transformers
  does not offer the choice for the family.
- `ep_implementation`: `DistributedConfig(ep_size=..., ep_implementation="autoep")`. "offered"
  means that transformers has a plan for the family, so it can be used, but these tests do not
  compare it. The families that "work" include every kind of experts.

`autoep.initialize` stacks experts that a model keeps in separate modules (most of transformers 4,
DBRX, most custom models). In the model, its checkpoints and the optimizer they then have the
names and shapes of transformers 5: `experts.gate_up_proj` [E, 2F, H] (`up_proj` [E, F, H] without
a gate), `experts.down_proj` [E, H, F] and their `_bias`. JetMoe's attention experts are not
sharded. If only some batches reach a model's experts (batches with images in ERNIE 4.5 VL, for
example), either every rank's batch must reach them or none.
"""


def section(results: Mapping[str, Found]) -> str:
    """Returns the section of the installed version of transformers."""
    found = results.items()
    lines = [
        f"## transformers {transformers.__version__}",
        "",
        "| family | initialize | experts_implementation | ep_implementation |",
        "|---|---|---|---|",
        *(
            f"| {name} | {_cell(it.initialize)} | {it.implementation} | {_tried(name, it)} |"
            for name, it in found
        ),
    ]
    return "\n".join(lines) + "\n"


def is_committed(results: Mapping[str, Found]) -> bool:
    """Whether the committed file contains these results."""
    begins = PATH.exists() and PATH.read_text().startswith(_HEAD)
    return begins and _sections().get(transformers.__version__) == section(results)


def write(results: Mapping[str, Found]) -> None:
    """Replaces the section of the installed version."""
    sections = _sections() | {transformers.__version__: section(results)}
    newest_first = [sections[version] for version in sorted(sections, reverse=True)]
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text("\n".join([_HEAD, *newest_first]))


def _sections() -> dict[str, str]:
    text = PATH.read_text() if PATH.exists() else ""
    parts = re.split(r"^(?=## transformers )", text, flags=re.M)[1:]
    return {part.split(None, 3)[2]: part.rstrip("\n") + "\n" for part in parts}


def _tried(name: str, found: Found) -> str:
    return "works" if found.parallelism and name in TRIED else found.parallelism


def _cell(result: str) -> str:
    if result == "works":
        return result
    if result.startswith(NOT_BUILT):
        return result.replace("|", "/")
    # Drops the layer's name, numbers, and the advice.
    reason = re.sub(r"^\S+: | \(.*?\)", "", result).split(". ")[0]
    return f"refused: {reason.replace('|', '/')}"
