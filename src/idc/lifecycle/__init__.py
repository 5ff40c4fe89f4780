"""The registered model over time: intake, drift, promotion, reproduction."""
