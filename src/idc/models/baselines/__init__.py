"""Simple models that a fusion CNN must beat."""
