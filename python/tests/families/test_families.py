"""Every MoE family of transformers: parity over two ranks, or a refusal that says why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import transformers
from support.families import table, tiny
from support.families.parity import NOT_BUILT, WORKS, Found, check
from support.launches import launch, mpirun, torchrun
from transformers import PretrainedConfig

from autoep.distributed.launch import World

HERE = Path(__file__).parent

# Why a family is refused, for those that are.
REFUSED_OF_4 = {
    "aria_text": "no MoE layer of a known kind",
    "phimoe": "the engine cannot reproduce what it computes",
}
REFUSED_OF_5 = {
    "doge": "retrieves single neurons, not experts",
    "nllb-moe": "drops the tokens beyond each expert's capacity",
    "switch_transformers": "drops the tokens beyond each expert's capacity",
    "vitpose": "the data set of a whole image",
    "vitpose_backbone": "the data set of a whole image",
}


REFUSED = REFUSED_OF_4 if transformers.__version__.startswith("4.") else REFUSED_OF_5


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Found]:
    """What each family came to; one launch tries them all."""
    folder = tmp_path_factory.mktemp("families")
    command = mpirun(2) if shutil.which("mpirun") else torchrun(2)
    launched = launch(command, HERE / "run_families.py", str(folder), timeout=600)
    assert launched.returncode == 0, f"{launched.stdout[-2000:]}\n{launched.stderr[-8000:]}"
    of_ranks = [
        {entry.pop("model_type"): Found(**entry) for entry in map(json.loads, lines)}
        for path in sorted(folder.glob("rank*.jsonl"))
        for lines in [path.read_text().splitlines()]
    ]
    assert of_ranks[0] == of_ranks[1]
    return of_ranks[0]


class Whimsical(PretrainedConfig):
    """The configuration of a family that no size suits."""

    model_type = "whimsical"

    def __init__(self, **given: object) -> None:
        raise ValueError("vision_config: no such thing")


def test_a_family_that_cannot_be_built_stands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are tried, and the table says why it is not."""
    monkeypatch.setitem(tiny.CONFIG_MAPPING._extra_content, "whimsical", Whimsical)
    names = [*tiny.CONFIG_MAPPING_NAMES, "whimsical"]
    monkeypatch.setattr(tiny, "CONFIG_MAPPING_NAMES", names)
    monkeypatch.setattr(tiny, "_OF_4", (*tiny._OF_4, "whimsical"))
    assert tiny.moe_model_types()[-1] == "whimsical"
    assert "mixtral" in tiny.moe_model_types()
    found = check("whimsical", World(0, 1, 0, mpi=False))
    assert found.initialize == "not built: ValueError: vision_config: no such thing"
    assert "| whimsical | not built: ValueError: vision_config" in table.section(
        {"whimsical": found}
    )


@pytest.mark.parametrize("model_type", tiny.moe_model_types())
def test_family(results: dict[str, Found], model_type: str) -> None:
    found = results[model_type]
    if found.initialize.startswith(NOT_BUILT):
        pytest.skip(found.initialize)
    if model_type in REFUSED:
        assert REFUSED[model_type] in found.initialize
    else:
        assert found.initialize == WORKS
    assert found.implementation in (WORKS, "")


def test_the_table_is_what_the_tests_found(
    results: dict[str, Found], request: pytest.FixtureRequest
) -> None:
    if request.config.getoption("--write-families"):
        table.write(results)
    assert table.is_committed(results), "run `make families`"
