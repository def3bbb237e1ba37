"""The ranks: how they start, their groups, and the transport of their rows."""
