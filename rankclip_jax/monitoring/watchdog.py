"""The watchdog: ends a run that hangs, and prints the stacks of all its threads."""

import contextlib
import faulthandler
import multiprocessing
import os
import socket
import sys
import threading

import jax

from rankclip_jax.monitoring.timeline import Timeline


class Watchdog(contextlib.ExitStack):
    """Ends the process if one activity takes too long, such as a collective that other processes do not join.

    A process that hangs blocks all others. Each reports its activity, and the stacks show which process is the cause.
    Time is counted in waits of a thread, so that a suspended machine does not count as a hang.

    Args:
      timeline: the run's current activity.
      seconds: the limit for one activity; 0: no limit.
    """

    def __init__(self, timeline: Timeline, seconds: float) -> None:
        super().__init__()
        self._timeline, self._seconds = timeline, seconds
        self._over = threading.Event()

    def __enter__(self) -> "Watchdog":
        """Starts the watching thread."""
        if self._seconds:
            self.callback(self._over.set)
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def _watch(self) -> None:
        pause = min(self._seconds / 10, 10)
        seen, waited = None, 0.0
        while not self._over.wait(pause):
            doing = self._timeline.doing
            waited = waited + pause if doing is not None and doing is seen else 0.0
            seen = doing
            if doing is not None and waited >= self._seconds:
                self._end(doing.words)

    def _end(self, doing: str) -> None:
        print(
            f"{socket.gethostname()}, process {jax.process_index()}: {doing} has taken longer than {self._seconds:g} "
            "seconds. The run exits with its last checkpoint; run the same command to resume. If this is not a hang, "
            "increase --config.processes.hang_seconds. Stacks of all threads, most recent call first:",
            file=sys.stderr,
            flush=True,
        )
        faulthandler.dump_traceback(sys.__stderr__ or 2)
        for worker in multiprocessing.active_children():  # decoding workers, which may be what hangs
            worker.kill()
        os._exit(1)
