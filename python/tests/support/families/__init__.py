"""A tiny model of every family, and its parity with one process."""
