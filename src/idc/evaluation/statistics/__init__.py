"""Metrics and their intervals by case bootstrap."""
