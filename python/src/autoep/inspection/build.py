"""Building a model without its weights, from a config, a path or a name."""

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from autoep.errors import ConfigError

# The kinds of models to try, those that generate text first.
_KINDS = (
    "AutoModelForCausalLM",
    "AutoModelForMultimodalLM",
    "AutoModelForImageTextToText",
    "AutoModelForSeq2SeqLM",
    "AutoModel",
)


def model_on_meta(given: nn.Module | transformers.PretrainedConfig | str | PathLike[str]) -> Any:
    """Returns a model built on the meta device, or the given model.

    Args:
        given: A model; a config; the path of a config.json or of its folder; or the name of a
            model on the Hub, of which only the config is read.

    Raises:
        ConfigError: It cannot be read, or transformers has no model for it.
    """
    if isinstance(given, nn.Module):
        return given
    config = given if isinstance(given, transformers.PretrainedConfig) else _read(given)
    for kind in (getattr(transformers, name, None) for name in _KINDS):
        if kind is not None and type(config) in kind._model_mapping:
            return _build(kind, config)
    raise ConfigError(
        f"inspect: transformers {transformers.__version__} cannot build a model from"
        f" {type(config).__name__} (model_type {config.model_type!r}) by itself; build the model"
        " and pass it instead"
    )


def _build(kind: Any, config: transformers.PretrainedConfig) -> nn.Module:
    try:
        with torch.device("meta"):
            return kind.from_config(config)
    except Exception as error:  # any error of a model with an unsuitable config
        raise ConfigError(
            f"inspect: transformers {transformers.__version__} cannot build the model of this"
            f" {type(config).__name__}: {type(error).__name__}: {error}"
        ) from error


def _read(given: object) -> transformers.PretrainedConfig:
    if not isinstance(given, str | PathLike):
        raise ConfigError(
            f"inspect: given {type(given).__name__}; allowed: a model, a config, the path of a"
            " config.json or of its folder, the name of a model on the Hub"
        )
    exists = Path(given).exists()
    if not exists and not _is_name_on_the_hub(str(given)):
        raise ConfigError(
            f"inspect: {given}: there is no such file or folder, nor is it the name of a model on"
            " the Hub, ORGANISATION/NAME"
        )
    try:
        return transformers.AutoConfig.from_pretrained(str(given), trust_remote_code=False)
    except Exception as error:  # a config of an unknown kind, or with unsuitable values
        if exists or not isinstance(error, OSError):
            raise ConfigError(f"inspect: {given} cannot be read as a config: {error}") from error
        raise ConfigError(
            f"inspect: {given}: there is no such file or folder, and no config of a model of that"
            f" name was found on the Hub or in its cache ({str(error).splitlines()[0]})"
        ) from error


def _is_name_on_the_hub(text: str) -> bool:
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", text) is not None
