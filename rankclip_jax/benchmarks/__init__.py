"""The benchmarks of `python -m rankclip_jax.benchmark SUBJECT`, one file per subject."""
