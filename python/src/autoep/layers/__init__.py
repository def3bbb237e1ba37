"""What a MoE layer is, and what replaces its parts."""
