"""`save_pretrained` of a model with stacked experts: refused, as it could not be read again."""

from __future__ import annotations

from typing import Any

from torch import nn

from autoep.errors import UnsupportedError


def refuse_save_pretrained(model: nn.Module) -> None:
    """Makes `save_pretrained` say why it does not work; an adapter of PEFT can still be saved.

    transformers would write the stacked weights under their names, find none of its own when it
    reads them, and start those experts from random numbers with a warning.
    """
    if not hasattr(model, "save_pretrained") or hasattr(model, "peft_config"):
        return

    def save_pretrained(*_: Any, **__: Any) -> None:
        raise UnsupportedError(
            f"save_pretrained: the experts of this {type(model).__name__} were stacked by"
            " autoep.initialize, and transformers could not read them again; exporting to its"
            " format is not in this version yet. Use engine.save_checkpoint."
        )

    model.save_pretrained = save_pretrained
