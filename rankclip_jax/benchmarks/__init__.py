"""What `python -m rankclip_jax.benchmark SUBJECT` measures, a file for each subject."""
