"""The seam to the engine: its library, arrays, contexts and options."""
