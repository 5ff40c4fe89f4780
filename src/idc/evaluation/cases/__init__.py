"""Whole cases: context and burden."""
