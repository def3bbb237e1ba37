"""Timing passes in turns, so that a disturbance of the machine affects all of them."""

from __future__ import annotations

from ceiling import Ceiling
from layers import HF_LAYERS
from measure import median, rested_turn, settle, turn
from passes import Case, Pass
from report import Row

# On an otherwise idle machine, nine of ten ceilings are at least this fraction of their median.
_QUIET = 0.9


def measure_in_turns(
    case: Case,
    passes: list[Pass],
    ceiling: Ceiling,
    *,
    device: str,
    rounds: int,
    calls: int,
    slow_seconds: float,
    rested: bool,
) -> list[Row]:
    """Times the passes of a case; measures the ceiling before each of them, or once at rest.

    Args:
        case: The properties that they share.
        passes: The passes to time.
        ceiling: The ceiling to which their rates are compared.
        device: "cpu" or "cuda".
        rounds: The number of turns of each pass.
        calls: The largest number of calls per turn.
        slow_seconds: A pass with a call that takes longer gets no further turns.
        rested: Whether the device rests before each turn.
    """
    times: list[list[float]] = [[] for _ in passes]
    ceilings = [ceiling.tflops(case.dtype)] if rested else []
    for _ in range(rounds):
        for each, found in zip(passes, times, strict=True):
            if found and found[0] > 1e3 * slow_seconds:
                continue
            settle()
            if rested:
                found += rested_turn(each.call, device, calls)
                continue
            ceilings.append(ceiling.tflops(case.dtype))
            found += turn(each.call, device, calls)
    low, middle = sorted(ceilings)[len(ceilings) // 10], median(ceilings)
    beside = {
        "ceiling": ceiling.name,
        "ceiling_tflops": middle,
        "ceiling_range_tflops": [min(ceilings), max(ceilings)],
        "quiet": rested or low > _QUIET * middle,
    }
    rows = [_row(case, each, found) | beside for each, found in zip(passes, times, strict=True)]
    for row in rows:
        row["of_ceiling"] = row["tflops"] / row["ceiling_tflops"]
        row["of_hf"] = _of_hf(row, rows)
    return rows


def rows_over_ranks(case: Case, found: dict[int, dict[str, list[float]]]) -> list[Row]:
    """Returns the rows of `times_over_ranks` for several numbers of ranks."""
    flops = case.shape.forward_flops(case.tokens)
    rows = []
    for ranks, passes in found.items():
        for name, times in passes.items():
            milliseconds = median(times)
            one = median(found[1][name]) if 1 in found else None
            rows.append(
                {
                    **case.columns(),
                    "ranks": ranks,
                    "pass": name,
                    "ms": milliseconds,
                    "all_ms": times,
                    "tflops": flops * (1 if name == "forward" else 3) / milliseconds / 1e9,
                    "of_one_rank": None if one is None else milliseconds / one,
                }
            )
    return rows


def _row(case: Case, timed: Pass, times: list[float]) -> Row:
    return {
        **case.columns(),
        "part": timed.part,
        "layer": timed.layer,
        "pass": timed.name,
        "ms": median(times),
        "all_ms": times,
        "tflops": timed.flops / median(times) / 1e9,
    }


def _of_hf(row: Row, rows: list[Row]) -> float | None:
    """Returns the speedup over the better of transformers' paths; None if none was timed."""
    same = ("part", "pass")
    theirs = [
        other["ms"]
        for other in rows
        if other["layer"] in HF_LAYERS and all(other[key] == row[key] for key in same)
    ]
    return min(theirs) / row["ms"] if theirs else None
