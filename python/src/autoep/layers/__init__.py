"""The description of MoE layers, and the replacements of their parts."""
