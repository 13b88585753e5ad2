"""Where the numbers of a run go: ``metrics.jsonl``, TensorBoard events, and Weights & Biases where asked for."""

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
_MOST_STEPS = 10**12  # no run has as many


class Writer(Protocol):
    """A place for numbers; None, and what is not finite, is a number that is not defined."""

    def write(self, step: int, values: Values) -> None:
        """Adds the numbers of a step."""
        ...

    def flush(self) -> None:
        """Makes sure that all is written."""
        ...

    def close(self) -> None:
        """The same, a last time."""
        ...


class JsonLines:
    """One object a step, with its number: ``{"step": 50, "loss": 3.2, ...}``.

    Args:
      path: of the file, which is added to.
      start_step: later lines of an attempt that was cut off are dropped.
    """

    def __init__(self, path: Path, start_step: int) -> None:
        _drop_later_steps(path, start_step)
        self._file = AppendOnlyFile(path)

    def write(self, step: int, values: Values) -> None:
        """Adds a line; numbers that are not defined are null."""
        line = {"step": step} | {name: value if _is_number(value) else None for name, value in values.items()}
        self._file.add((json.dumps(line, allow_nan=False) + "\n").encode())

    def flush(self) -> None:
        """Writes what is left."""
        self._file.flush()

    close = flush


class TensorBoard:
    """Scalars as TensorBoard's events: records as TensorFlow frames them.

    (tensorboardX's own writer is a thread that a full disk ends, and that is then waited for.)

    Args:
      folder: of the events.
      start_step: later ones of an attempt that was cut off are not shown.
    """

    def __init__(self, folder: Path, start_step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._file = AppendOnlyFile(folder / name, makes_folder=True)
        self._add(Event(file_version="brain.Event:2"))
        self._add(Event(step=start_step, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, values: Values) -> None:
        """Adds scalars; those that are not defined are left out."""
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
    """A run of Weights & Biases with the workdir's name and settings; its project is ``WANDB_PROJECT``.

    Args:
      workdir: the run's folder; offline runs lie in it until they are sent, of one in a store in ``wandb/`` here.
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
        self._run.define_metric("*", step_metric="step")  # an attempt may repeat steps of the one before

    def write(self, step: int, values: Values) -> None:
        """Sends the numbers, or keeps them to be sent."""
        self._run.log({"step": step} | {name: value for name, value in values.items() if _is_number(value)})

    def flush(self) -> None:
        """The library sends and keeps by itself."""

    def close(self) -> None:
        """Waits until all is sent or kept."""
        self._run.finish()


def check_writers(config: ConfigDict) -> None:
    """Raises UserError where a writer that the settings ask for is not installed."""
    if config.logging.wandb and importlib.util.find_spec("wandb") is None:
        raise UserError(
            f"config.logging.wandb: {config.logging.wandb!r} needs the package wandb. Install it (pip install wandb), "
            "or say --config.logging.wandb="
        )


def make_writers(workdir: Path, start_step: int, config: ConfigDict) -> list[Writer]:
    """The writers of a run that goes on from a step, as its settings say."""
    writers: list[Writer] = [JsonLines(workdir / "metrics.jsonl", start_step)]
    writers.append(TensorBoard(workdir / "tensorboard", start_step))
    return [*writers, WeightsAndBiases(workdir, config)] if config.logging.wandb else writers


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def read_lines(path: Path) -> list[dict]:
    """The objects of a `JsonLines` file: their steps, and numbers or None; none where there is no file.

    Raises:
      OSError: as `json_lines.read_objects`.
      UserError: the same.
    """
    return [
        {name: files.number(value) for name, value in found.items()}
        for found in json_lines.read_objects(path)
        if type(found.get("step")) is int and 0 <= found["step"] < _MOST_STEPS
    ]


def _drop_later_steps(path: Path, start_step: int) -> None:
    """Drops what an attempt that was cut off wrote after its last checkpoint, and a line cut in half."""
    if path.exists():
        kept = [json.dumps(line) + "\n" for line in read_lines(path) if line["step"] <= start_step]
        write_atomically(path, "".join(kept))
