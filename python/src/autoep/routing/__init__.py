"""What is done with a model's own routers: fused, replaced by another choice, balanced."""
