"""A peer for tests: python -m tests.benchmarks.worker [SECONDS] [option ...]; options may help, harm or fail it."""

import os
import sys
import types

from rankclip_jax.benchmarks import peer


def prepare(words):
    if "absent" in words:
        raise peer.PeerError("no such model")
    if "crash_at_start" in words:
        raise ValueError("two\nlines")
    print("what a library prints")
    with open(words[0], "a") as file:
        print(os.getpid(), *words[1:], os.environ.get("HELP", ""), file=file)

    clock = [0.0]  # its own, so that nothing depends on the machine
    peer.time = types.SimpleNamespace(perf_counter=lambda: clock[-1])

    def work():
        if "crash_at_work" in words:
            raise MemoryError("too large")
        clock.append(clock[-1] + 10 - 3 * ("HELP" in os.environ) - 3 * ("good" in words) + 5 * ("bad" in words))

    return work


if __name__ == "__main__":
    peer.serve(lambda: prepare(sys.argv[1:]))
