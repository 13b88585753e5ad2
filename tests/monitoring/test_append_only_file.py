"""Files that are added to, where the disk is full for a while."""

import errno
import types
from pathlib import Path

import pytest

from rankclip_jax.monitoring.append_only_file import AppendOnlyFile
from rankclip_jax.monitoring.events import Events, read
from rankclip_jax.monitoring.writers import make_writers, read_lines
from rankclip_jax.recipes import base


class Limited:
    """A file on a disk that takes so many bytes more, and then says that it is full."""

    def __init__(self, disk, file):
        self.disk, self.file = disk, file

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, content):
        taken = content[: self.disk.room]
        if content and not taken:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.disk.room -= len(taken)
        return self.file.write(taken)


@pytest.fixture
def disk(monkeypatch):
    found, real = types.SimpleNamespace(room=10**9), Path.open

    def limited(path, mode="r", *arguments, **words):
        file = real(path, mode, *arguments, **words)
        return Limited(found, file) if "a" in mode else file

    monkeypatch.setattr(Path, "open", limited)
    return found


def test_what_did_not_fit_comes_later_and_nothing_twice(disk, tmp_path, caplog):
    (tmp_path / "x").write_bytes(b"there\n")
    added = AppendOnlyFile(tmp_path / "x")
    added.add(b"first\n")
    disk.room = 3
    added.add(b"second\n")
    added.add(b"third\n")
    assert (tmp_path / "x").read_bytes() == b"there\nfirst\nsec"
    disk.room = 10**9
    added.add(b"fourth\n")
    assert (tmp_path / "x").read_bytes() == b"there\nfirst\nsecond\nthird\nfourth\n"
    assert caplog.text.count("x cannot be written ([Errno 28] No space left on device); retrying later") == 1


def test_a_runs_numbers_and_events_outlast_a_full_disk(disk, tmp_path):
    writers, events = make_writers(tmp_path, 0, base()), Events(tmp_path)
    for step in range(1, 61):
        disk.room = 5 if 10 < step < 50 else 10**9
        for writer in writers:
            writer.write(step, {"loss": step / 8, "unknown": None})
        events.write("something", step=step)
    for writer in writers:
        writer.close()
    assert read_lines(tmp_path / "metrics.jsonl") == [{"step": n, "loss": n / 8, "unknown": None} for n in range(1, 61)]
    assert [event["step"] for event in read(tmp_path)] == list(range(1, 61))
    (path,) = (tmp_path / "tensorboard").iterdir()
    assert scalars(path) == [(step, "loss", step / 8) for step in range(1, 61)]


def scalars(path):
    """As TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    events = [Event.FromString(raw) for raw in RawEventFileLoader(str(path)).Load()]
    assert (events[0].file_version, events[1].session_log.status) == ("brain.Event:2", 1)
    return [(event.step, value.tag, value.simple_value) for event in events[2:] for value in event.summary.value]
