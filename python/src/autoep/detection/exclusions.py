"""What numbers cannot tell of a family: which blocks stay whole, which are refused, and why."""

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

# Experts that every rank keeps all of: those of JetMoe's attention are few and small, and queries
# and outputs are routed by one choice.
WHOLE_BLOCKS = ("JetMoeMoA",)
