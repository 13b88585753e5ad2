"""Logs of a run, and the reports and figures made from them."""
