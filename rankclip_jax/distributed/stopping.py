"""Coordinates a stop of all processes of a run: any process requests it, and all stop at the same step."""

import contextlib
import secrets
import threading
import time
from typing import Any

import jax
import orbax.checkpoint as ocp

from rankclip_jax.distributed.processes import max_across_processes

_PAUSE = 1.0  # seconds between polls for requests of other processes


class StopCoordinator:
    """Propagates a stop request from one process to all, and agrees on the point at which all stop.

    Processes run the same collective units (steps, evaluation batches) in the same order, and `begin` counts them. Some
    processes run ahead of others. To stop all at the same point, a background thread in each process blocks `begin`,
    publishes its count, and takes the maximum of all counts. Processes that are behind continue up to that count, which
    is at least 1. A single process stops where it is. The request reaches the other processes in about a second.

    All processes create one together.
    """

    def __init__(self) -> None:
        self.signal_number = 0
        # The key-value store that JAX's processes share; None in a single-process run.
        is_shared = ocp.multihost.is_jax_distributed_client_initialized()
        self._store: Any = ocp.multihost.get_jax_distributed_client() if is_shared else None
        self._key = f"rankclip_jax/stop/{max_across_processes(secrets.randbits(31)) if is_shared else 0}"
        self._requested = threading.Event()
        self._beginning = threading.Lock()
        self._begun, self._last = 0, 0  # units begun, and the last one to run; 0: not agreed yet

    def request(self, signal_number: int) -> None:
        """Requests a stop; may be called from a signal handler."""
        self.signal_number = signal_number
        if not self._store:
            self._last = max(1, self._begun)
        self._requested.set()

    def begin(self) -> bool:
        """Called by the main thread before each collective unit; returns False if the run must stop before it."""
        with self._beginning:
            if self.is_over():
                return False
            self._begun += 1
            return True

    def is_over(self) -> bool:
        """Whether the last agreed unit has begun."""
        return bool(self._last) and self._begun >= self._last

    def wait(self, over: threading.Event) -> bool:
        """Blocks a background thread; returns True once a process requests a stop, False when ``over`` is set."""
        while not self._requested.wait(_PAUSE):
            if over.is_set():
                return False
            if request := self._read_request():
                self.signal_number = int(request)
                return True
        if over.is_set():
            return False
        if self._store:
            self._store.key_value_set(self._key, str(self.signal_number), allow_overwrite=True)
        return True

    def sync(self, over: threading.Event) -> bool:
        """Called next by that thread: agrees on the last unit with all processes; False when ``over`` is set."""
        if not self._store:
            return True
        with self._beginning:
            counts = list[int]()
            self._publish_begun()
            while len(counts) < jax.process_count():
                if over.is_set():
                    return False
                time.sleep(_PAUSE / 10)
                counts = [int(value) for _, value in self._store.key_value_dir_get(f"{self._key}/begun/")]
            self._last = max(1, *counts)
        return True

    def close(self) -> None:
        """Publishes the final count, so that processes that stop later do not wait for this one.

        A thread in `wait` returns at once if its ``over`` is set.
        """
        self._requested.set()
        if self._store:
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # the other processes may have exited
                self._publish_begun()

    def _publish_begun(self) -> None:
        key = f"{self._key}/begun/{jax.process_index()}"
        self._store.key_value_set(key, str(self._begun), allow_overwrite=True)

    def _read_request(self) -> str:
        if not self._store:
            return ""
        try:
            return self._store.key_value_try_get(self._key)
        except jax.errors.JaxRuntimeError:  # no request yet
            return ""
