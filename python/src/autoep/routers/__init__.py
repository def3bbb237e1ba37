"""Routers that the engine computes or balances."""
