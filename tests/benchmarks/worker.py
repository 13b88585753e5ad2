"""A peer for tests: python -m tests.benchmarks.worker [SECONDS] [option ...]; options may help, harm or fail it."""

import os
import sys
import time

from rankclip_jax.benchmarks import peer


def prepare(words):
    if "absent" in words:
        raise peer.PeerError("no such model")
    if "crash_at_start" in words:
        raise ValueError("two\nlines")
    print("what a library prints")
    with open(words[0], "a") as file:
        print(os.getpid(), *words[1:], os.environ.get("HELP", ""), file=file)

    def work():
        if "crash_at_work" in words:
            raise MemoryError("too large")
        time.sleep(0.2 - 0.06 * ("HELP" in os.environ) - 0.06 * ("good" in words) + 0.3 * ("bad" in words))

    return work


if __name__ == "__main__":
    peer.serve(lambda: prepare(sys.argv[1:]))
