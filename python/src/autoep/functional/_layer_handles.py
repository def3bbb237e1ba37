"""The engine's layers: created once per device, communicator and options, then cached.

Shapes: T tokens, K experts per token, R rows of this rank's experts, A tokens that arrive.
"""

from __future__ import annotations

import os
import weakref
from typing import NamedTuple

from autoep.core.arrays import Array, empty, memory, on_gpu, workspace
from autoep.core.contexts import context_of
from autoep.core.native import engine
from autoep.core.options import DISPATCHES, SCORE_APPLIES, ExpertsOptions
from autoep.distributed.communicator import Communicator

# The layers that one communicator caches, and the workspaces whose sizes one layer caches. More
# than models have kinds of layers, because a traced backward must find the layer of its plan.
_MOST_LAYERS = 1024
_MOST_SIZES = 256


class Workspaces(NamedTuple):
    """The bytes of scratch memory that the calls of one pass need."""

    plan: int
    forward: int
    backward: int
    dispatch: int


class PlanSize(NamedTuple):
    """The counts of a plan, in the order in which the engine's calls take them after the plan.

    With T they determine the memory of its passes. All are 0 before the plan is made.

    Attributes:
        capacity: The rows for which the engine allocates: R over several ranks, T*K on one.
        arriving: A, where tokens are sent once per rank; otherwise 0.
        plan_id: The plan's number, by which the engine finds its row counts without waiting for a
            GPU; 0 if it has none.
    """

    capacity: int = 0
    arriving: int = 0
    plan_id: int = 0


class Planned(NamedTuple):
    """A plan and its counts.

    Attributes:
        memory: The plan's bytes.
        tokens_per_expert: [E] int32, the slots of this rank per expert.
        rows_per_expert: [e] int32, the rows of each of this rank's experts.
        rows: R; T*K if only the device knows it.
        size: The counts that the engine's calls take with the plan.
    """

    memory: Array
    tokens_per_expert: Array
    rows_per_expert: Array
    rows: int
    size: PlanSize


_UNPLANNED = PlanSize()


class Layer:
    """One layer of the engine, for all streams of one device, and the sizes of its memory.

    Attributes:
        handle: The engine's handle.
        options: What the layer computes.
        first_expert: This rank's first expert.
        local_experts: e, the number of this rank's experts.
        counts_rows: Whether the plan must be made before the forward.
        backward_reads_x: Whether the backward needs x.
    """

    def __init__(
        self,
        context: engine.Handle,
        options: ExpertsOptions,
        dispatch: int,
        comm: engine.Handle | None,
    ) -> None:
        self.options = options
        self.handle, info = engine.layer_create(context, (*options, dispatch), comm)
        (
            self.first_expert,
            self.local_experts,
            self.counts_rows,
            self.backward_reads_x,
            self._plan_bytes,
            self._plan_bytes_per_token,
            self._saved_bytes,
            self._saved_bytes_per_row,
            self._saved_bytes_per_token,
        ) = info
        self._workspaces: dict[tuple, Workspaces] = {}

    def plan_size(self, tokens: int) -> int:
        """Returns the bytes of a plan of T tokens."""
        return self._plan_bytes + tokens * self._plan_bytes_per_token

    def saved_size(self, size: PlanSize) -> int:
        """Returns the bytes that a forward saves for its backward."""
        return (
            self._saved_bytes
            + size.capacity * self._saved_bytes_per_row
            + size.arriving * self._saved_bytes_per_token
        )

    def size_of(self, tokens: int) -> PlanSize:
        """Returns the size of the plan of T tokens that a forward of a single rank makes."""
        return PlanSize(tokens * self.options.top_k)

    def workspace(
        self,
        like: Array,
        tokens: int,
        size: PlanSize = _UNPLANNED,
        *,
        overwrite_saved: bool = False,
        lends_gate_up: bool = False,
        lends_grad_x: bool = False,
    ) -> Workspaces:
        """Returns the sizes of one pass on the device of `like`.

        Args:
            like: Any array of the pass.
            tokens: T.
            size: The plan's; zeros if the forward makes the plan.
            overwrite_saved: Whether the saved bytes may be the backward's scratch memory.
            lends_gate_up: Whether the gradient of gate_up may be scratch memory.
            lends_grad_x: Whether the gradient of x may be scratch memory.
        """
        key = (tokens, size.capacity, size.arriving, overwrite_saved, lends_gate_up, lends_grad_x)
        known = self._workspaces.get(key)
        if known is None:
            known = Workspaces(*engine.layer_workspace(context_of(like), self.handle, *key))
            if len(self._workspaces) >= _MOST_SIZES:
                self._workspaces.clear()
            self._workspaces[key] = known
        return known

    def plan(self, idx_TK: Array) -> Planned:
        """Makes a plan; collective."""
        tokens = idx_TK.shape[0]
        plan = memory(idx_TK, self.plan_size(tokens))
        sent_E = empty(idx_TK, (self.options.num_experts,), "int32")
        # On a single rank both counts are the same, and the engine counts once.
        received_e = empty(idx_TK, (self.local_experts,), "int32") if self.counts_rows else None
        scratch = workspace(idx_TK, self.workspace(idx_TK, tokens).plan)
        rows, *size = engine.layer_plan(
            context_of(idx_TK), self.handle, idx_TK, plan, sent_E, received_e, scratch
        )
        if received_e is None:
            received_e = sent_E
        if rows < 0:
            rows = size[0]
        return Planned(plan, sent_E, received_e, rows, PlanSize(*size))


class Layers:
    """The cached layers of one communicator, or of a single rank, by device and options."""

    def __init__(self, comm: Communicator | None) -> None:
        self._comm = None if comm is None else comm.handle
        self._dispatch = DISPATCHES["slots" if comm is None else comm.dispatch]
        self._known: dict[tuple[int, ExpertsOptions], Layer] = {}
        _everywhere.add(self)

    def get(self, like: Array, options: ExpertsOptions) -> Layer:
        """Returns the layer for the device of an array, created on first use."""
        key = (like.device.index if on_gpu(like) else -1, options)
        known = self._known.get(key)
        if known is None:
            # If two threads race here, one layer is dropped.
            made = Layer(context_of(like), options, self._dispatch_of(options), self._comm)
            known = self._known.setdefault(key, made)
            for oldest in list(self._known)[:-_MOST_LAYERS]:
                self._known.pop(oldest, None)
        return known

    def _dispatch_of(self, options: ExpertsOptions) -> int:
        """Returns slots where sending tokens would save nothing, or is not possible."""
        is_after = options.apply_weights == SCORE_APPLIES["after"]
        return self._dispatch if is_after and options.top_k > 1 else DISPATCHES["slots"]

    def close(self) -> None:
        """Frees the layers, and with them their references to the communicator."""
        for layer in list(self._known.values()):
            layer.handle.close()
        self._known.clear()

    def forget(self) -> None:
        """Drops the layers in a forked child: they belong to the parent."""
        self._known.clear()


_everywhere: weakref.WeakSet[Layers] = weakref.WeakSet()
_alone = Layers(None)


def _forget_all() -> None:
    for layers in list(_everywhere):
        layers.forget()


os.register_at_fork(after_in_child=_forget_all)


def layer_of(like: Array, options: ExpertsOptions, comm: Communicator | None) -> Layer:
    """Returns the layer for some options on the device of an array.

    Args:
        like: Any array of the layer.
        options: What the layer computes.
        comm: The ranks that share the experts; None for this rank alone.
    """
    if comm is None:
        return _alone.get(like, options)
    if comm.layers is None:
        comm.layers = Layers(comm)
    return comm.layers.get(like, options)
