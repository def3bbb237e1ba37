"""`save_pretrained` of a model whose experts were changed: refused, as nothing could read it."""

from __future__ import annotations

from typing import Any, NoReturn

from torch import nn

from autoep.errors import UnsupportedError
from autoep.layers.replaced_method import ReplacedMethod
from autoep.layers.spec import MoELayer

_METHODS = ("save_pretrained", "push_to_hub")


class _Refusal(ReplacedMethod):
    """Replaces a method, and raises with the reason why it does not work."""

    def __init__(self, method: str, kind: str, changed: str) -> None:
        self._text = (
            f"{method}: the experts of this {kind} were {changed} by autoep.initialize, and"
            " transformers could not load them again; this version cannot export to its format"
            " yet. Use engine.save_checkpoint, on every rank."
        )

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        """Raises, on one rank or on all, before anything is written or sent."""
        raise UnsupportedError(self._text)


def refuse_save_pretrained(model: nn.Module, layers: list[MoELayer], changed: str) -> None:
    """Makes `save_pretrained` raise with the reason; an adapter of PEFT can still be saved.

    Given stacked experts, transformers would find none of its names when it loads them, and
    initialise them randomly with a warning. It cannot write one rank's shard, and would wait for
    ranks that do not make the call.

    Args:
        model: The model.
        layers: The layers whose experts were changed.
        changed: The change, as a participle.
    """
    experts = {layer.experts for layer in layers}
    for module in model.modules():
        if not _saves_adapters(module) and not experts.isdisjoint(module.modules()):
            for method in _METHODS:
                if hasattr(type(module), method):
                    setattr(module, method, _Refusal(method, type(module).__name__, changed))


def _saves_adapters(module: nn.Module) -> bool:
    """Whether a module writes only its adapters."""
    is_of_peft = type(module).__module__.startswith("peft.")
    return is_of_peft or getattr(module, "_hf_peft_config_loaded", False)
