"""Which explanations to believe."""
