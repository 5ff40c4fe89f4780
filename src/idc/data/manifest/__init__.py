"""From the index to the patches that are learnt from."""
