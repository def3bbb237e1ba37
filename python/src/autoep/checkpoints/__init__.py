"""Saving and loading a training run, and exporting its model."""
