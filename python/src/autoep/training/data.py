"""The loader of the training data, which gives every rank the same number of batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    default_collate,
)

from autoep.config.training import Config
from autoep.distributed.launch import World
from autoep.errors import ConfigError


class EvenLoader:
    """A loader that ends on all ranks together, even if some ranks have more batches.

    Every rank must join every exchange of a step, so no rank may run more batches than the others.

    Attributes:
        epoch: The number of the next epoch, from 0; the shuffle depends on it. Checkpoints save
            it. They do not save the position within an epoch, which the script restores.
    """

    def __init__(self, loader: DataLoader, agrees: bool) -> None:
        """Wraps a loader.

        Args:
            loader: This rank's loader.
            agrees: Whether the ranks agree before each batch that all have one; not needed if a
                sampler gives every rank the same number.
        """
        self._loader = loader
        self._agrees = agrees
        self.epoch = 0

    def __iter__(self) -> Iterator[Any]:
        """Yields the batches of one epoch; collective if `agrees`."""
        set_epoch = getattr(getattr(self._loader, "sampler", None), "set_epoch", None)
        if set_epoch is not None:
            set_epoch(self.epoch)
        self.epoch += 1
        return self._together() if self._agrees else iter(self._loader)

    def __len__(self) -> int:
        """Returns this rank's batches per epoch; the rank with the fewest ends the epoch."""
        return len(self._loader)

    def _together(self) -> Iterator[Any]:
        batches = iter(self._loader)
        ended = object()
        while True:
            batch = next(batches, ended)
            everyone_has_one = torch.tensor(int(batch is not ended))
            dist.all_reduce(everyone_has_one, op=dist.ReduceOp.MIN)
            if not everyone_has_one:
                return
            yield batch


def build_loader(
    data: Dataset | DataLoader | None,
    collate_fn: Callable[[list[Any]], Any] | None,
    config: Config,
    micro_batch_size: int,
    world: World,
) -> EvenLoader | None:
    """Builds the loader of this rank's share of the data.

    A dataset with a length is shuffled and split over the ranks; a few samples are repeated if
    it does not divide. An `IterableDataset` or a loader must yield this rank's share by itself;
    the epoch ends on all ranks when the first of them runs out of batches.

    Args:
        data: A dataset, a loader, or None.
        collate_fn: Makes a batch of samples; None for torch's, or for transformers' default if the
            values of a sample are lists of numbers, as in HuggingFace's datasets.
        config: Contains the seed, and whether to drop a smaller last batch.
        micro_batch_size: Samples per batch.
        world: All ranks.
    """
    if data is None:
        return None
    _check_given(data, collate_fn)
    has_others = world.size > 1
    if isinstance(data, DataLoader):
        return EvenLoader(data, agrees=has_others)
    options = {
        "batch_size": micro_batch_size,
        "collate_fn": collate if collate_fn is None else collate_fn,
        "drop_last": config.dataloader_drop_last,
    }
    if isinstance(data, IterableDataset):
        return EvenLoader(DataLoader(data, **options), agrees=has_others)
    sampler = DistributedSampler(
        data, num_replicas=world.size, rank=world.rank, shuffle=True, seed=config.seed
    )
    return EvenLoader(DataLoader(data, sampler=sampler, **options), agrees=False)


def collate(samples: list[Any]) -> Any:
    """Makes a batch of samples, one tensor per key.

    torch's own function treats the numbers of a list as separate fields of the sample, and would
    return a list of tensors.

    Raises:
        ConfigError: Lists of the samples differ in length, or hold no numbers.
    """
    first = samples[0]
    if not isinstance(first, Mapping) or not any(map(_is_list_of_numbers, first.values())):
        return default_collate(samples)
    for name, value in first.items():
        if isinstance(value, list) and value and not _is_list_of_numbers(value):
            raise ConfigError(
                f"training_data: the samples have {name!r}, a list of {type(value[0]).__name__};"
                " expected lists of numbers. Remove the column, or pass a collate_fn."
            )
        lengths = {len(sample[name]) for sample in samples} if isinstance(value, list) else ()
        if len(lengths) > 1:
            raise ConfigError(
                f"training_data: the samples of a batch have a {name!r} of lengths"
                f" {', '.join(map(str, sorted(lengths)))}; expected one length. Pad them, or pass"
                " a collate_fn that does, such as transformers.DataCollatorWithPadding(tokenizer)"
            )
    from transformers import default_data_collator

    return default_data_collator([dict(sample) for sample in samples])


def _is_list_of_numbers(value: Any) -> bool:
    while isinstance(value, list) and value:
        value = value[0]
        if isinstance(value, int | float):
            return True
    return False


def _check_given(data: object, collate_fn: object) -> None:
    sized = hasattr(data, "__getitem__") and hasattr(data, "__len__")
    if not sized and not isinstance(data, DataLoader | IterableDataset):
        raise ConfigError(
            f"training_data: given {type(data).__name__}; allowed: a dataset with a length, a"
            " torch IterableDataset, or a torch DataLoader"
        )
    if collate_fn is not None and not callable(collate_fn):
        raise ConfigError(f"collate_fn: given {type(collate_fn).__name__}; allowed: a function")
    if collate_fn is not None and isinstance(data, DataLoader):
        raise ConfigError(
            "collate_fn: given with a DataLoader, which has one of its own; pass the dataset as"
            " training_data, or give the loader its collate_fn"
        )
