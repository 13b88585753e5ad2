"""Runs of two processes that something happens to, and what must be true of them afterwards."""

import dataclasses
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

ROOT = Path(__file__).parent.parent.parent
STEPS, EXAMPLES, BATCH = 40, 128, 16
DEADLINE = 60  # seconds in which all processes must have ended after a fault
FIRST_STEP = "step 1/"


# Each start compiles the same programs: once for all, and in little time.
_QUICK = {
    "JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax")),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
}


# How many times as long as on a quiet machine everything may take: a soak sets it by the time of its undisturbed run.
slowness = 1.0


class Broken(AssertionError):
    """A promise that was not kept."""


@dataclasses.dataclass
class Shape:
    """How an attempt lies on processes and devices."""

    processes: int = 2
    devices: int = 4
    flags: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    records: Path | None = None  # beside which the notes of records lie; the workdir, unless given


class Attempt:
    """The processes of one start of the training, and all that they say."""

    def __init__(self, workdir: Path, shape: Shape, delays: tuple[float, ...] = ()) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        self.lines: list[str] = []
        self.processes: list[subprocess.Popen] = []
        self._listeners: list[threading.Thread] = []
        command = [sys.executable, "-m", "tests.soak.tiny", "train", "--config", "tests/soak/recipe.py"]
        for number in reversed(range(shape.processes)):  # the coordinator comes last
            variables = {
                "JAX_PLATFORMS": "cpu",
                "JAX_NUM_CPU_DEVICES": str(shape.devices),
                "JAX_COORDINATOR_ADDRESS": address,
                "JAX_NUM_PROCESSES": str(shape.processes),
                "JAX_PROCESS_ID": str(number),
                "SOAK_RECORDS": f"{shape.records or workdir}.records.{number}",
                "PYTHONUNBUFFERED": "1",
                **_QUICK,
                **dict(shape.variables),
            }
            process = subprocess.Popen(
                [*command, f"--workdir={workdir}", *shape.flags],
                cwd=ROOT, env=os.environ | variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
            listener = threading.Thread(target=self._listen, args=(process,), daemon=True)
            listener.start()
            self.processes.insert(0, process)
            self._listeners.append(listener)
            if delays:
                time.sleep(delays[number])

    def _listen(self, process: subprocess.Popen) -> None:
        with process.stdout as lines:
            for line in lines:
                self.lines.append(line)  # others read it meanwhile

    @property
    def said(self) -> str:
        return "".join(self.lines)

    def is_running(self) -> bool:
        return any(process.poll() is None for process in self.processes)

    def wait_for(self, moment) -> None:
        """Waits until ``moment()``, or until all have ended."""
        end = time.monotonic() + 300 * slowness
        while self.is_running() and not moment():
            if time.monotonic() > end:
                self.send(signal.SIGKILL, list(range(len(self.processes))))
                raise Broken("nothing happens:\n" + self.said)
            time.sleep(0.005)

    def send(self, number: signal.Signals, which: list[int]) -> None:
        for index in which:
            if self.processes[index].poll() is None:
                self.processes[index].send_signal(number)

    def end(self, seconds: float) -> list[int]:
        """The exit statuses, of processes that end by themselves in so many seconds."""
        end = time.monotonic() + seconds * slowness
        while self.is_running():
            if time.monotonic() > end:
                self.send(signal.SIGKILL, list(range(len(self.processes))))
                raise Broken(f"not all processes ended within {seconds * slowness:.0f} s:\n{self.said}")
            time.sleep(0.02)
        for listener in self._listeners:
            listener.join(10)
        return [process.returncode for process in self.processes]


def finish(workdir: Path, shape: Shape | None = None, attempts: int = 3, seconds: float = 300) -> str:
    """Starts the training again until it is finished, each time for so long at most; what it said."""
    said = ""
    for _ in range(attempts):
        attempt = Attempt(workdir, shape or Shape())
        statuses = attempt.end(seconds)
        said += attempt.said
        if not any(statuses):
            return said
    raise Broken(f"not finished after {attempts} attempts:\n{said}")


def newest(workdir: Path) -> Path:
    folders = [path for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()]
    return max(folders, key=lambda path: int(path.name))


def state_of(checkpoint: Path) -> dict:
    """The arrays of a checkpoint, whatever devices it was saved from."""
    path, checkpointer = checkpoint.absolute() / "default", ocp.PyTreeCheckpointer()
    names = checkpointer.metadata(path).item_metadata.tree
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), names)
    return checkpointer.restore(path, restore_args=as_numpy)


def losses(workdir: Path) -> list[float]:
    found = re.findall(r'"step": (\d+), "loss": ([\d.e-]+)', (workdir / "metrics.jsonl").read_text())
    assert [int(step) for step, _ in found] == list(range(1, STEPS + 1))
    return [float(loss) for _, loss in found]


def check_same(workdir: Path, undisturbed: Path) -> None:
    """The parameters are those of the undisturbed run, to the bit, and each epoch has seen each record once."""
    if newest(workdir).name != str(STEPS):
        raise Broken(f"{workdir} ended at step {newest(workdir).name}")
    here, there = state_of(newest(workdir)), state_of(newest(undisturbed))
    if not jax.tree.all(jax.tree.map(np.array_equal, here, there)):
        raise Broken(f"{workdir} has other parameters than {undisturbed}")
    if losses(workdir) != losses(undisturbed):
        raise Broken(f"{workdir} has other losses than {undisturbed}")
    check_records(workdir)


def check_records(workdir: Path) -> None:
    """Of the steps that count, the last made of each number."""
    seen: dict[int, list[int]] = {step: [] for step in range(1, STEPS + 1)}
    for path in workdir.parent.glob(f"{workdir.name}.records.*"):
        mine = {}
        for line in path.read_text().splitlines():
            step, *records = map(int, line.split())
            mine[step] = records
        for step in seen:
            seen[step] += mine.get(step, [])
    steps = EXAMPLES // BATCH
    for first in range(1, STEPS + 1, steps):
        epoch = sorted(record for step in range(first, first + steps) for record in seen[step])
        if epoch != list(range(EXAMPLES)):
            raise Broken(f"{workdir}: the epoch from step {first} has not seen each record once")


def flip_a_bit(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    place = draw.randrange(len(content))
    content[place] ^= 1 << draw.randrange(8)
    path.write_bytes(bytes(content))
