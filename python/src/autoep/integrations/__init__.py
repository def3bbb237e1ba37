"""The implementations in transformers' registries of experts and of expert parallelism."""
