"""Finding the MoE layers of a model and the computation of their experts."""
