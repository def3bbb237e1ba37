"""A replacement for a method of one module, which survives a copy of the model."""

from __future__ import annotations

import copy
from typing import Any, NoReturn

from autoep.errors import UnsupportedError


class ReplacedMethod:
    """A callable attribute of a module that replaces one of the module's methods.

    It holds the modules that it uses as plain attributes. A deep copy of the model therefore has
    its own instance, which uses the copied modules. A function would be shared, and the copy
    would compute with the modules of the original.
    """

    def __deepcopy__(self, copied: dict[int, Any]) -> ReplacedMethod:
        twin = object.__new__(type(self))
        copied[id(self)] = twin
        vars(twin).update({name: copy.deepcopy(v, copied) for name, v in vars(self).items()})
        return twin

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise UnsupportedError(
            "torch.save, pickle: a model that autoep.initialize has changed cannot be pickled as a"
            " whole, since its experts compute with this process's engine and ranks. Save"
            " model.state_dict(), or call engine.save_checkpoint on every rank."
        )
