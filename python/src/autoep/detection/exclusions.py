"""Facts about families that comparing results cannot show: blocks kept whole or refused."""

from __future__ import annotations

_CAPACITY = "it drops the tokens beyond each expert's capacity, and the engine drops none"
_DATA_SET = "the data set of a whole image decides its expert, so no token is routed"

# Blocks by their class.
REFUSED_BLOCKS = {
    "SwitchTransformersSparseMLP": _CAPACITY,
    "NllbMoeSparseMLP": _CAPACITY,
    "VitPoseBackboneMoeMLP": _DATA_SET,
    "DogeCDMoE": "it retrieves single neurons, not experts with weights of their own",
}

# Blocks whose experts every rank keeps: those of JetMoe's attention are few and small, and one
# choice routes both queries and outputs.
WHOLE_BLOCKS = ("JetMoeMoA",)
