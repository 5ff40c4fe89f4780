"""The model that MLflow registers and serves."""
