"""Inspecting a model without its weights."""

from autoep.inspection.model import Blocks, Inspection, Unsupported
from autoep.inspection.report import inspect

__all__ = ["Blocks", "Inspection", "Unsupported", "inspect"]
