"""Figures of merit, their intervals, the operating point and the pictures of one scored side."""
