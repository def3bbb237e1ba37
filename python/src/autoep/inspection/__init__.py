"""What AutoEP sees in a model, without its weights."""

from autoep.inspection.report import Blocks, Inspection, Unsupported, inspect

__all__ = ["Blocks", "Inspection", "Unsupported", "inspect"]
