"""The project of the promotion tests: a registry without any training."""

from tests.promotion.conftest import empty_store, project, trained  # noqa: F401  (fixtures)
