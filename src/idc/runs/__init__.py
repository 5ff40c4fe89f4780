"""Runs in workspaces: where they work, what they leave, where it comes from."""
