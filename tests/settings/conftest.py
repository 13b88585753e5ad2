"""The small model of the tests of training."""

from tests.training.conftest import tiny

__all__ = ["tiny"]
