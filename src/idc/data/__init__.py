"""From raw archives to the patches of one batch."""
