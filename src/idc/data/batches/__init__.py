"""From rows of the pixel store to augmented batches."""
