"""The ranks: how they start, their groups, and what carries their rows."""
