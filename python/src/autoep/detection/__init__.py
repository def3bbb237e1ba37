"""Finding the MoE layers of a model, and what their experts compute."""

from autoep.detection.conventions import follows_convention, spec_by_convention
from autoep.detection.spec import MoELayer, MoELayerSpec

__all__ = ["MoELayer", "MoELayerSpec", "follows_convention", "spec_by_convention"]
