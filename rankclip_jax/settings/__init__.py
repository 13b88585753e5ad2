"""A run's settings: declared next to the code that reads them, listed in ``configs/base.py``, validated here."""
