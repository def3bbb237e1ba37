"""The training engine, its optimizers, schedules and data."""
