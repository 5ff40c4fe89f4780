"""What a model's scores are worth: metrics, their intervals, the operating point, the pictures."""
