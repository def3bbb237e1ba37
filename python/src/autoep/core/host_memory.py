"""A pool of host memory for large results.

Fresh memory from the system costs one page fault per page and is zeroed first. For the tensors of
an MoE layer that takes longer than writing them, on every step.
"""

from __future__ import annotations

import mmap
import os
import sys
import threading

from autoep.errors import OutOfMemoryError

# Bytes. Smaller arrays are allocated by their library.
LARGE = 1 << 20

_HUGE_PAGE = 2 << 20


class _Block:
    """Private memory. Every array on it holds a reference to `memory`."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self.memory.madvise(mmap.MADV_HUGEPAGE)

    def is_idle(self) -> bool:
        """Whether no array uses it: only this object and the call hold references."""
        return sys.getrefcount(self.memory) <= _UNUSED


class BlockPool:
    """Lends blocks of memory; their reference counts show when they are free again.

    It never holds more than was in use at one time: before it grows, it frees idle blocks.
    """

    def __init__(self) -> None:
        self._blocks: list[_Block] = []
        self._most_used = 0
        self._lock = threading.Lock()

    def take(self, size: int, *, brief: bool = False) -> mmap.mmap:
        """Returns at least `size` uninitialised bytes; hold a reference while they are in use.

        Args:
            size: Bytes.
            brief: Whether it is returned before anything large is taken. It may then be an idle
                block of any size, which would otherwise be freed to make room.
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
                # The most recently used block is last in the list, and freed last.
                self._blocks.remove(block)
            else:
                self._make_room(size, idle, most_used)
                block = self._new(size, idle)
            self._most_used = most_used
            self._blocks.append(block)
            return block.memory

    def held_bytes(self) -> int:
        """Returns the number of bytes in use and idle."""
        return sum(block.size for block in self._blocks)

    def free_lock(self) -> None:
        """Replaces the lock in a forked child, where the thread that held it may not exist."""
        self._lock = threading.Lock()

    def _make_room(self, size: int, idle: list[_Block], most: int) -> None:
        while idle and self.held_bytes() + size > most:
            self._blocks.remove(idle.pop(0))

    def _new(self, size: int, idle: list[_Block]) -> _Block:
        try:
            return _Block(size)
        except OSError:
            # Freeing the idle blocks may make enough room.
            self._make_room(size, idle, 0)
        try:
            return _Block(size)
        except OSError as error:
            raise OutOfMemoryError(
                f"cannot allocate {size} bytes of host memory for a result ({error}), with"
                f" {self.held_bytes()} bytes in use; use fewer tokens per step"
            ) from None


def _rounded(size: int) -> int:
    """Rounds a size up by at most 1/32, so that similar sizes share blocks."""
    step = max(1 << max(size.bit_length() - 6, 0), _HUGE_PAGE)
    return -(-size // step) * step


def _references_of_an_idle_block() -> int:
    class Holder:
        def __init__(self) -> None:
            self.memory = object()

        def count(self) -> int:
            return sys.getrefcount(self.memory)

    return Holder().count()


# The reference count of an idle block in `is_idle`; differs between versions of Python.
_UNUSED = _references_of_an_idle_block()

# The pool of this process.
pool = BlockPool()
os.register_at_fork(after_in_child=pool.free_lock)
