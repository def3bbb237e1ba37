"""A tiny model of every family, and its parity with itself in one process."""
