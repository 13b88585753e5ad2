"""Preparation of any source as sharded ArrayRecord: one module per source, the shard writer, and the job runners.

A source splits its input into jobs, as a pure function of the input. Each job becomes one shard, or none if all of its
pairs are skipped. So the output does not depend on the number of workers, and a killed preparation can resume.
"""
