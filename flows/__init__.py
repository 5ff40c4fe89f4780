"""Prefect flows: recipes of tasks, without logic of their own."""
