"""RankCLIP in JAX: language-image pretraining with ranking consistency."""

__version__ = "0.1.0"
