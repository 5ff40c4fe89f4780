"""From an archive to the pixel store and its index."""
