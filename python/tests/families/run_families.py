"""Tries families on one rank: `run_families.py FOLDER [MODEL_TYPE...]`.

Each rank writes what it found into the folder.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import torch
import transformers
from support.families import tiny
from support.families.parity import TIMEOUT, check

from autoep.distributed.launch import join_world


def main(folder: Path, model_types: list[str]) -> None:
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    world = join_world(TIMEOUT)
    with (folder / f"rank{world.rank}.jsonl").open("w") as results:
        for model_type in model_types or tiny.moe_model_types():
            try:
                found = check(model_type, world)
            except BaseException as failure:
                print(f"{model_type}: {failure!r}", file=sys.stderr)
                raise  # the other rank may be waiting for this one: end both
            results.write(json.dumps({"model_type": model_type, **found._asdict()}) + "\n")
            results.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
