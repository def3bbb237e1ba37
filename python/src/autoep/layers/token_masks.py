"""The padding of a batch, from the masks that a model is called with.

Shapes: B sequences, L their length including the cache, S the length that is computed now.
"""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch
from torch import nn


class TokenMasks(NamedTuple):
    """The masks of one forward, [B, L] each, 0 for padding; None if every token is real.

    of_all: The mask of all other layers.
        of_decoder: The mask of the layers of a decoder that has an encoder.
    """

    of_all: torch.Tensor | None = None
    of_decoder: torch.Tensor | None = None

    def real(self, layer_name: str, tokens: int) -> torch.Tensor | None:
        """Returns the mask of a layer's real tokens, [T] of bool; None if all are real.

        Args:
            layer_name: The layer's name in the model.
            tokens: T, B times S.
        """
        mask_BL = self.of_decoder if "decoder" in layer_name.split(".") else self.of_all
        if mask_BL is None or tokens % max(len(mask_BL), 1):
            return None
        length = tokens // max(len(mask_BL), 1)
        if length > mask_BL.shape[1]:
            return None
        return mask_BL[:, mask_BL.shape[1] - length :].reshape(-1) != 0


def token_masks(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> TokenMasks:
    """Finds the masks among the arguments of a model's forward."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    given = {**_by_name(inner, args), **kwargs}
    of_all = _padding_mask(given.get("attention_mask"))
    if not getattr(getattr(inner, "config", None), "is_encoder_decoder", False):
        return TokenMasks(of_all, of_all)
    return TokenMasks(of_all, _padding_mask(given.get("decoder_attention_mask")))


def _by_name(model: nn.Module, args: tuple[Any, ...]) -> dict[str, Any]:
    parameters = inspect.signature(model.forward).parameters.values() if args else ()
    names = [p.name for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    return dict(zip(names, args, strict=False))


def _padding_mask(given: Any) -> torch.Tensor | None:
    """Returns a mask of tokens, or None: a 4D mask of token pairs does not show padding."""
    return given if isinstance(given, torch.Tensor) and given.ndim == 2 else None
