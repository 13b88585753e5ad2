"""A run's settings: declared by the parts that read them, listed by ``configs/base.py``, checked here."""
