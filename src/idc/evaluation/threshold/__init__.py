"""Calibration and the operating point."""
