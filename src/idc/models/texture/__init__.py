"""A dictionary of textures, learnt without labels."""
