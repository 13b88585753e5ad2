"""Metric writers of a run: ``metrics.jsonl``, TensorBoard events, and optionally Weights & Biases."""

import hashlib
import importlib.util
import json
import math
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from ml_collections import ConfigDict
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from rankclip_jax.input_pipeline import files
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.files import write_atomically
from rankclip_jax.input_pipeline.object_stores import absolute, is_remote
from rankclip_jax.monitoring import json_lines
from rankclip_jax.monitoring.append_only_file import AppendOnlyFile

Values = Mapping[str, float | None]
_MOST_STEPS = 10**12  # more than any run has


class Writer(Protocol):
    """A writer of metrics; None and non-finite values count as undefined."""

    def write(self, step: int, values: Values) -> None:
        """Writes the values of a step."""
        ...

    def flush(self) -> None:
        """Flushes buffered values."""
        ...

    def close(self) -> None:
        """Flushes and closes the writer."""
        ...


class JsonLines:
    """Writes one JSON object per logged step: ``{"step": 50, "loss": 3.2, ...}``.

    Args:
      path: the file to append to.
      start_step: later lines of an interrupted attempt are dropped.
    """

    def __init__(self, path: Path, start_step: int) -> None:
        _drop_later_steps(path, start_step)
        self._file = AppendOnlyFile(path)

    def write(self, step: int, values: Values) -> None:
        """Appends a line; undefined values are null."""
        line = {"step": step} | {name: value if _is_number(value) else None for name, value in values.items()}
        self._file.add((json.dumps(line, allow_nan=False) + "\n").encode())

    def flush(self) -> None:
        """Writes what is left."""
        self._file.flush()

    close = flush


class TensorBoard:
    """Writes scalars as TensorBoard events, in TensorFlow's record format.

    (tensorboardX's own writer hangs on a full disk: its thread ends and is then waited for.)

    Args:
      folder: the folder of the event files.
      start_step: TensorBoard hides later events of an interrupted attempt.
    """

    def __init__(self, folder: Path, start_step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._file = AppendOnlyFile(folder / name, makes_folder=True)
        self._add(Event(file_version="brain.Event:2"))
        self._add(Event(step=start_step, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, values: Values) -> None:
        """Writes scalars, without undefined ones."""
        scalars = [Summary.Value(tag=name, simple_value=x) for name, x in values.items() if _is_number(x)]
        self._add(Event(step=step, summary=Summary(value=scalars)))

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        content = event.SerializeToString()
        length = struct.pack("<Q", len(content))
        sums = (struct.pack("<I", masked_crc32c(part)) for part in (length, content))
        self._file.add(length + next(sums) + content + next(sums))

    def flush(self) -> None:
        """Writes what is left."""
        self._file.flush()

    close = flush


class WeightsAndBiases:
    """Logs to a run of Weights & Biases with the workdir's name and settings, in the project ``WANDB_PROJECT``.

    Args:
      workdir: the run's folder, which keeps offline runs until they are synced; for a folder in an object store they
        are in ``wandb/`` of the current folder.
      config: the settings.
    """

    def __init__(self, workdir: Path, config: ConfigDict) -> None:
        import wandb  # not a requirement, and takes a second

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "rankclip_jax"),
            name=workdir.name,
            id=hashlib.sha256(str(absolute(workdir)).encode()).hexdigest()[:16],
            resume="allow",
            dir=None if is_remote(workdir) else workdir,
            config=config.to_dict(),
            mode=config.logging.wandb,
            settings=wandb.Settings(console="off", silent=True),
        )
        self._run.define_metric("*", step_metric="step")  # an attempt may repeat steps of the previous one

    def write(self, step: int, values: Values) -> None:
        """Sends the values, or stores them for a later sync."""
        self._run.log({"step": step} | {name: value for name, value in values.items() if _is_number(value)})

    def flush(self) -> None:
        """Does nothing: the library flushes on its own."""

    def close(self) -> None:
        """Waits until all values are sent or stored."""
        self._run.finish()


def check_writers(config: ConfigDict) -> None:
    """Raises UserError if the package of a requested writer is not installed."""
    if config.logging.wandb and importlib.util.find_spec("wandb") is None:
        raise UserError(
            f"config.logging.wandb: {config.logging.wandb!r} needs the package wandb, which is not installed. Run: pip "
            "install wandb (or turn it off: --config.logging.wandb='')"
        )


def make_writers(workdir: Path, start_step: int, config: ConfigDict) -> list[Writer]:
    """Returns the configured writers of a run that starts or resumes from a step."""
    writers: list[Writer] = [JsonLines(workdir / "metrics.jsonl", start_step)]
    writers.append(TensorBoard(workdir / "tensorboard", start_step))
    return [*writers, WeightsAndBiases(workdir, config)] if config.logging.wandb else writers


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def read_lines(path: Path) -> list[dict]:
    """Reads the objects of a `JsonLines` file, with numbers or None as values; empty for a missing file.

    Raises:
      OSError: see `json_lines.read_objects`.
      UserError: see `json_lines.read_objects`.
    """
    return [
        {name: files.number(value) for name, value in line.items()}
        for line in json_lines.read_objects(path)
        if type(line.get("step")) is int and 0 <= line["step"] < _MOST_STEPS
    ]


def _drop_later_steps(path: Path, start_step: int) -> None:
    """Drops lines that an interrupted attempt wrote after its last checkpoint, and incomplete lines."""
    if path.exists():
        kept = [json.dumps(line) + "\n" for line in read_lines(path) if line["step"] <= start_step]
        write_atomically(path, "".join(kept))
