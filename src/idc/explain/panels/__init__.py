"""Which patches are explained, and their pictures."""
