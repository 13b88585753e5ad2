"""A run that stands still is ended, and says where each of its threads stands."""

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
    """Ends the process where one thing takes too long: a collective that others do not join, a reader that is stuck.

    What is stuck in one process holds up all; each says what it was in, and the stacks show which of them the cause is
    in. Seconds are counted in waits of a thread's own: a machine that sleeps meanwhile is no standstill.

    Args:
      timeline: what the run does.
      seconds: that one thing may take; 0: any.
    """

    def __init__(self, timeline: Timeline, seconds: float) -> None:
        super().__init__()
        self._timeline, self._seconds = timeline, seconds
        self._over = threading.Event()

    def __enter__(self) -> "Watchdog":
        """Watches from here on."""
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
            "seconds, so the run is ended, with what was saved before; the same command goes on from there. Where it "
            "takes so long, give it longer with --config.processes.hang_seconds. All threads, the newest call first:",
            file=sys.stderr,
            flush=True,
        )
        faulthandler.dump_traceback(sys.__stderr__ or 2)
        for worker in multiprocessing.active_children():  # which decode, and may be what is stuck
            worker.kill()
        os._exit(1)
