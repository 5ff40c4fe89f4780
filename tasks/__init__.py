"""Prefect tasks: the policy of a stage (retries, timeout, cancellation, artifacts), no science."""
