"""Finding the MoE layers of a model, and what their experts compute."""

from autoep.detection.conventions import follows_convention, spec_by_convention
from autoep.detection.find import find_moe_layers
from autoep.detection.spec import MoELayer, MoELayerSpec

__all__ = [
    "MoELayer",
    "MoELayerSpec",
    "find_moe_layers",
    "follows_convention",
    "spec_by_convention",
]
