"""The runner of the cases: what one that fails does to the others, and what runs at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import failing_example
import pytest
from support.case_launches import Launcher, Outcomes, run_cases
from support.launches import mpirun, torchrun

# Those after which the launch goes on, and those that it ends with.
FAIL = ("all_ranks_fail", "one_rank_fails_at_the_end", "one_rank_fails_while_the_other_waits")


def says(outcomes: Outcomes, name: str) -> str:
    with pytest.raises(AssertionError) as caught:
        outcomes.check(name)
    return str(caught.value)


@pytest.mark.parametrize("command", [mpirun(2), torchrun(2)], ids=["mpirun", "torchrun"])
def test_cases_that_fail_do_not_fell_the_others(command: list[str], tmp_path: Path) -> None:
    launcher = Launcher(command, 2, (failing_example.__name__,))
    names = launcher.cases()
    outcomes = run_cases(launcher, names, tmp_path)
    for name in names:
        if name not in FAIL:
            outcomes.check(name)
    every, at_the_end, waiting = (says(outcomes, name) for name in FAIL)
    assert "rank 0 was to fail" in every and "rank 1 was to fail" in every
    assert "rank 1 was to fail" in at_the_end and "rank 0" not in at_the_end
    assert "rank 0 was to fail" in waiting
    # The group is usable after the first two, and is not after the last.
    assert [launched.begun for launched in outcomes.launches] == [names[:-1], names[-1:]]
    assert outcomes.launches[-1].returncode == 0


def test_a_launch_that_begins_nothing_is_not_repeated(tmp_path: Path) -> None:
    launcher = Launcher([sys.executable], 1, ("no_such_module",))
    outcomes = run_cases(launcher, ["all_ranks_fail", "the_second_passes"], tmp_path)
    assert len(outcomes.launches) == 1
    assert "0 of 1 ranks ran it" in says(outcomes, "the_second_passes")
    assert "no_such_module" in says(outcomes, "all_ranks_fail")


def test_the_cases_that_were_asked_for_run_alone() -> None:
    command = [sys.executable, "-m", "pytest", failing_example.__file__, "-q", "-rA"]
    command += ["-p", "no:cacheprovider", "-k", "all_ranks_fail or the_second_passes"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "begun: all_ranks_fail the_second_passes\n" in result.stdout, result.stdout
    assert "ValueError: rank 0 was to fail" in result.stdout
    assert "1 failed, 1 passed, 1 deselected" in result.stdout, result.stdout
