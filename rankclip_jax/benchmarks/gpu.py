"""A suite of experiments on the attached devices, the most informative first, within a time limit.

Each experiment is a separate process, so that a crash or hang does not affect the others, and its memory is freed. Each
row is written to ``results.jsonl`` at once, and its summary to ``results.md``. CPUs run a small version.
"""

import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax

from rankclip_jax.benchmarks.gpu_experiments import EXPERIMENTS, Row


def run(minutes: float, output: Path) -> list[str]:
    """Runs as many experiments as the time allows, and returns the names of those that did not finish.

    Args:
      minutes: time limit, after which no experiment starts and the current one is killed.
      output: the folder of the results, to which new ones are appended.
    """
    deadline, unfinished = time.monotonic() + 60 * minutes, list(EXPERIMENTS)
    for name in EXPERIMENTS:
        seconds = deadline - time.monotonic()
        if seconds <= 0:
            break
        print(f"{name} ({seconds:.0f} seconds left)", flush=True)
        status = _run_in_process(name, output, seconds)
        if status == 0:
            unfinished.remove(name)
        else:
            reason = "out of time" if status is None else f"exit status {status}"
            write(output, {"experiment": name, "summary": f"{name}: not finished, {reason}"})
    if unfinished:
        print(f"not finished: {', '.join(unfinished)}", flush=True)
    print(f"results: {output / 'results.md'}", flush=True)
    return unfinished


def _run_in_process(name: str, output: Path, seconds: float) -> int | None:
    """Runs an experiment in a process; returns its exit status, or None if it ran out of time."""
    command = [sys.executable, "-m", "rankclip_jax.benchmark", "gpu", f"--experiment={name}", f"--output={output}"]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # including its child processes
        process.wait()


def run_experiment(name: str, output: Path) -> None:
    """Runs one experiment in this process and writes its rows."""
    for row in EXPERIMENTS[name](jax.default_backend() == "cpu"):
        write(output, {"experiment": name} | row)


def write(output: Path, row: Row) -> None:
    """Appends a row to the results and prints its summary."""
    output.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    for path, line in (
        (output / "results.jsonl", json.dumps(row | {"time": now})),
        (output / "results.md", f"- {row['summary']}"),
    ):
        with path.open("a", encoding="utf8") as file:
            file.write(f"{line}\n")
            file.flush()
            os.fsync(file.fileno())
    print(row["summary"], flush=True)
