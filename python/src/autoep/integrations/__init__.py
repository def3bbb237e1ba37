"""What transformers calls by name: its registries of experts and of expert parallelism."""
