"""The word to stop, from any process of a run to all, and the point at which all do."""

import contextlib
import itertools
import threading
import time
from typing import Any

import jax
from jax._src import distributed  # which has the only handle of the store that JAX's processes share

_PAUSE = 1.0  # seconds between two looks for word of others
_numbers = itertools.count()  # of the notices of this process; each process makes the same ones


class Notice:
    """Heard by one process, known to all about a second later.

    What processes do together (steps, batches of an evaluation) comes in the same order on each, and `begin` counts it.
    They run ahead of each other: so that all stop at the same point, a thread of each, which needs nothing of the main
    one, holds `begin` back, tells how far its process has come, and takes the farthest of what the others tell. Who is
    not so far goes on until there. At least the first thing is done. A process that is alone stops where it is.
    """

    def __init__(self) -> None:
        self.signal_number = 0
        self._store: Any = distributed.global_state.client  # None where this process is alone
        self._key = f"rankclip_jax/notice/{next(_numbers)}"
        self._told = threading.Event()
        self._beginning = threading.Lock()
        self._begun, self._last = 0, 0  # 0: not agreed

    def tell(self, signal_number: int) -> None:
        """Requests a stop; may be called by a signal's handler."""
        self.signal_number = signal_number
        if not self._store:
            self._last = max(1, self._begun)
        self._told.set()

    def begin(self) -> bool:
        """Called by the main thread before each thing that processes do together; False: it is not to be begun."""
        with self._beginning:
            if self.is_over():
                return False
            self._begun += 1
            return True

    def is_over(self) -> bool:
        """Whether everything that was to be begun has been."""
        return bool(self._last) and self._begun >= self._last

    def wait(self, over: threading.Event) -> bool:
        """Called by another thread: returns True when one of the processes was told, False when ``over`` is set."""
        while not self._told.wait(_PAUSE):
            if over.is_set():
                return False
            if word := self._word():
                self.signal_number = int(word)
                return True
        if over.is_set():
            return False
        if self._store:
            self._store.key_value_set(self._key, str(self.signal_number), allow_overwrite=True)
        return True

    def agree(self, over: threading.Event) -> bool:
        """Called by that thread then: finds the last thing to be done with the others; False when ``over`` is set."""
        if not self._store:
            return True
        with self._beginning:
            begun = list[int]()
            self._tell_begun()
            while len(begun) < jax.process_count():
                if over.is_set():
                    return False
                time.sleep(_PAUSE / 10)
                begun = [int(value) for _, value in self._store.key_value_dir_get(f"{self._key}/begun/")]
            self._last = max(1, *begun)
        return True

    def close(self) -> None:
        """Nothing more is begun here: others, who may be told to stop yet, need not wait for this process's word.

        A thread in `wait` returns at once if its ``over`` is set.
        """
        self._told.set()
        if self._store:
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # the others may be gone
                self._tell_begun()

    def _tell_begun(self) -> None:
        key = f"{self._key}/begun/{jax.process_index()}"
        self._store.key_value_set(key, str(self._begun), allow_overwrite=True)

    def _word(self) -> str:
        if not self._store:
            return ""
        try:
            return self._store.key_value_try_get(self._key)
        except jax.errors.JaxRuntimeError:  # nobody has said it
            return ""
