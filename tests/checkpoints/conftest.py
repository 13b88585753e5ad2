"""The small runs of the tests of training."""

from tests.training.conftest import tiny, undisturbed

__all__ = ["tiny", "undisturbed"]
