"""The point at which processes stop together, over a store that stands for JAX's."""

import random
import threading
import time

import jax
import pytest

from rankclip_jax.distributed import stopping
from rankclip_jax.distributed.stopping import StopCoordinator


class Store:
    """Of words by key, as the client of JAX's processes gives it."""

    def __init__(self):
        self._words = {}

    def key_value_set(self, key, value, allow_overwrite=False):
        assert allow_overwrite or key not in self._words
        self._words[key] = value

    def key_value_try_get(self, key):
        if key not in self._words:
            raise jax.errors.JaxRuntimeError("NOT_FOUND")
        return self._words[key]

    def key_value_dir_get(self, folder):
        return [(key, value) for key, value in list(self._words.items()) if key.startswith(folder)]


class Process:
    """One of several: its main thread begins things until it may not, and another listens."""

    def __init__(self, number, store, things, monkeypatch):
        self.stopping, self.over, self.done = StopCoordinator(), threading.Event(), 0
        self.stopping._store, self.stopping._key = store, "key"
        monkeypatch.setattr(jax, "process_index", lambda: self._numbers[threading.get_ident()])
        self._things = things
        self.threads = [threading.Thread(target=work, args=(number,)) for work in (self._main, self._listen)]

    _numbers: dict = {}  # noqa: RUF012  (of the processes, by thread)

    def _main(self, number):
        self._numbers[threading.get_ident()] = number
        pace = random.Random(number)
        while self.done < self._things and self.stopping.begin():
            time.sleep(pace.uniform(0, 0.01))
            self.done += 1
        self.over.set()
        self.stopping.close()

    def _listen(self, number):
        self._numbers[threading.get_ident()] = number
        if self.stopping.wait(self.over):
            self.stopping.sync(self.over)


@pytest.mark.parametrize(("things", "after"), [(10_000, 0.3), (10_000, 0.0), (40, 0.19)], ids=["on", "start", "end"])
def test_all_do_the_same_things_and_stop_soon_after_one_is_told(things, after, monkeypatch):
    """Also where some have come to the end of all that there is to do when another is told."""
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(stopping, "_PAUSE", 0.01)
    store = Store()
    processes = [Process(number, store, things, monkeypatch) for number in range(3)]
    for process in processes:
        for thread in process.threads:
            thread.start()
    time.sleep(after)
    processes[1].stopping.request(15)
    for process in processes:
        for thread in process.threads:
            thread.join(20)
            assert not thread.is_alive()
    assert len({process.done for process in processes}) == 1
    assert 1 <= processes[0].done <= things
    if things == 10_000:
        assert processes[0].done < things
        assert {process.stopping.signal_number for process in processes} == {15}


def test_a_process_that_is_alone_stops_where_it_is_but_after_a_first_thing():
    alone = StopCoordinator()
    alone.request(2)
    assert alone.begin()
    assert not alone.begin()
    later = StopCoordinator()
    assert later.begin()
    assert later.begin()
    later.request(2)
    assert later.is_over()
    assert not later.begin()
