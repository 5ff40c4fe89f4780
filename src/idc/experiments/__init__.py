"""Cross-validated experiments and sweeps, as plain functions."""
