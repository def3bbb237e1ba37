"""Finding the MoE layers of a model, and what their experts compute."""
