"""`generate` with experts on several ranks: all ranks run the same number of forwards."""

from __future__ import annotations

from typing import Any

from torch import nn

from autoep.errors import ModelError


def keep_generate_in_step(model: nn.Module) -> None:
    """Makes the model's `generate` go on until every rank has finished its sequences.

    A rank whose sequences end early still computes for the others' tokens. transformers does so
    with `synced_gpus`, whose default is False for what it does not know to be sharded.
    """
    own_generate = getattr(model, "generate", None)
    if own_generate is None:
        return

    def generate(*args: Any, synced_gpus: bool | None = None, **kwargs: Any) -> Any:
        if synced_gpus is False:
            raise ModelError(
                "generate(synced_gpus=False) would wait for ever with experts on several ranks"
                " when one of them finishes before the others; leave synced_gpus out, or pass True"
            )
        return own_generate(*args, synced_gpus=True, **kwargs)

    model.generate = generate
