"""Kernels without the engine: compiler, launches, watched memory."""
