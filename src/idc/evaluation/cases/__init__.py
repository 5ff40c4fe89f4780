"""Whole cases: context, burden, and whether there is any IDC."""
