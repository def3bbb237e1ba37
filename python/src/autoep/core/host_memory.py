"""Host memory for large results, kept for the next ones.

Memory that comes fresh from the system costs a page fault a page and is zeroed first: for the
tensors of an MoE layer that takes longer than writing them, at every step again.
"""

from __future__ import annotations

import mmap
import os
import sys
import threading

from autoep.errors import OutOfMemoryError

# Smaller arrays are left to their library.
LARGE = 1 << 20

_HUGE_PAGE = 2 << 20


class _Block:
    """Private memory; whoever holds an array on it holds `memory`."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self.memory.madvise(mmap.MADV_HUGEPAGE)

    def is_idle(self) -> bool:
        """Whether no array is on it: this object's reference, and that of the call."""
        return sys.getrefcount(self.memory) <= _UNUSED


class BlockPool:
    """Lends memory, and knows by its references when it is free again.

    It never holds more than was in use at one time: before it grows, it lets go of what is idle.
    """

    def __init__(self) -> None:
        self._blocks: list[_Block] = []
        self._most_used = 0
        self._lock = threading.Lock()

    def take(self, size: int, *, brief: bool = False) -> mmap.mmap:
        """Returns memory of at least `size` bytes, uninitialised; hold it as long as it is used.

        Args:
            size: Bytes.
            brief: Whether it is given back before anything large is taken: it may then be on an
                idle block of any size, which would else have to make room for it.
        """
        size = _rounded(size)
        with self._lock:
            idle = [block for block in self._blocks if block.is_idle()]
            idle_sizes = [block.size for block in idle]
            largest = max(idle_sizes, default=0) if brief else size + size // 4
            fitting = [block for block in idle if size <= block.size <= largest]
            used = self.held_bytes() - sum(idle_sizes)
            most_used = max(self._most_used, used + size)
            if fitting:
                block = min(fitting, key=lambda block: block.size)
                # The block used last stands last, and is let go of last.
                self._blocks.remove(block)
            else:
                self._make_room(size, idle, most_used)
                block = self._new(size, idle)
            self._most_used = most_used
            self._blocks.append(block)
            return block.memory

    def held_bytes(self) -> int:
        """Returns the bytes in use and idle."""
        return sum(block.size for block in self._blocks)

    def free_lock(self) -> None:
        """For a forked child, where the thread that may hold the lock is not."""
        self._lock = threading.Lock()

    def _make_room(self, size: int, idle: list[_Block], most: int) -> None:
        while idle and self.held_bytes() + size > most:
            self._blocks.remove(idle.pop(0))

    def _new(self, size: int, idle: list[_Block]) -> _Block:
        try:
            return _Block(size)
        except OSError:
            # What is idle may be what is missing.
            self._make_room(size, idle, 0)
        try:
            return _Block(size)
        except OSError as error:
            raise OutOfMemoryError(
                f"the system has no {size} bytes for a result ({error}), beside"
                f" {self.held_bytes()} that are in use; use fewer tokens a step"
            ) from None


def _rounded(size: int) -> int:
    """Returns a size that others of about as many bytes share: at most a thirty-second larger."""
    step = max(1 << max(size.bit_length() - 6, 0), _HUGE_PAGE)
    return -(-size // step) * step


def _references_of_an_idle_block() -> int:
    class Holder:
        def __init__(self) -> None:
            self.memory = object()

        def count(self) -> int:
            return sys.getrefcount(self.memory)

    return Holder().count()


# What sys.getrefcount says in `is_idle`, which differs between versions of Python.
_UNUSED = _references_of_an_idle_block()

# Of this process.
pool = BlockPool()
os.register_at_fork(after_in_child=pool.free_lock)
