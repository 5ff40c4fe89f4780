"""Patches to logits and embeddings."""
