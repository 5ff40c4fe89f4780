"""From logits to an operating point, metrics with intervals, and their pictures."""
