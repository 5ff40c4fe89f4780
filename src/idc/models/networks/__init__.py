"""The fusion CNN and what it is made of."""
