"""From any source to sharded ArrayRecord: a file for each source, and how shards are written, where and by whom.

A source splits its input into jobs, a pure function of the input; each job becomes one shard, or none where all of its
pairs are skipped. So the output does not depend on the number of workers, and a run goes on after a kill.
"""
