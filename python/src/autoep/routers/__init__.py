"""The routers of a model, computed by the engine or balanced by it."""
