"""The status of a run, read from the files of its workdir."""

import dataclasses
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rankclip_jax.checkpoints.workdir import read_config, saved_steps
from rankclip_jax.cli.console import format_duration
from rankclip_jax.input_pipeline.files import printable
from rankclip_jax.monitoring import events, goodput, heartbeat
from rankclip_jax.settings.schema import flatten

_SILENT = 60  # seconds (six heartbeats) without a heartbeat after which a run no longer counts as running


def lines(workdir: Path) -> Iterator[str]:
    """Yields lines about a run: its state, checkpoints, last heartbeat, goodput and events.

    Raises:
      UserError: the folder holds no run.
    """
    config = read_config(workdir)
    yield f"{workdir}: {config['model']['name']}, {config['objective']['name']}; {state_of(workdir, config).words}"
    yield f"checkpoints: {', '.join(map(str, saved_steps(workdir))) or 'none yet'}"
    yield _sign_of_life(workdir)
    seconds = goodput.seconds_of(workdir)
    if whole := sum(seconds.values()):
        share, attempts = goodput.share_of_steps(seconds), goodput.attempts_of(workdir)
        yield f"goodput: {share:.1%} of {format_duration(whole)}, over {attempts} attempt(s)"
        for cause in goodput.CAUSES:
            if cause in seconds:
                words, took = goodput.CAUSES[cause], format_duration(seconds[cause])
                yield f"  {words:<36}{took:>14}  {seconds[cause] / whole:6.1%}"
    for event, count in Counter(line["event"] for line in events.read(workdir)).items():
        yield f"event: {printable(event)}, {count} time(s)"


@dataclasses.dataclass(frozen=True)
class State:
    """The state of a run: whether all its steps are done, and a description."""

    finished: bool
    words: str


def state_of(workdir: Path, config: dict) -> State:
    """Returns the state of a run: finished, running, diverged, stopped, or silent.

    Args:
      workdir: the run's folder.
      config: its settings.
    """
    beat, steps = heartbeat.last(workdir) or {}, saved_steps(workdir)
    newest = steps[-1] if steps else 0
    stated = beat.get("total_steps")
    total = stated if isinstance(stated, int) else config["train"]["steps"] or None
    of = f"of {total:,}" if total else "of an unknown number"
    if newest == total:
        return State(True, f"finished, {total:,} steps")
    if not beat:
        return State(False, f"unfinished, step {newest:,} {of} is saved")
    ago = max(time.time() - beat["time"], 0.0)
    where = f"step {max(beat['step'], newest):,} {of}"
    if not beat.get("ended", True):
        if ago < _SILENT:
            return State(False, f"running, at {where}")
        return State(False, f"unfinished: silent for {format_duration(ago)} at {where}, killed or hanging")
    bad = [line.get("step") for line in events.read(workdir) if line["event"] == "not_finite"]
    if bad and isinstance(bad[-1], int) and bad[-1] > newest and bad[-1] >= beat["step"]:
        return State(False, f"diverged at step {bad[-1]:,} {of}; step {newest:,} is saved")
    return State(False, f"unfinished: stopped {format_duration(ago)} ago at {where}; step {newest:,} is saved")


def describe_differences(workdir: Path, other: Path) -> Iterator[str]:
    """Yields a line for each setting in which two runs differ.

    Raises:
      UserError: a folder holds no run.
    """
    own, others = (dict(flatten(read_config(folder))) for folder in (workdir, other))
    names = [name for name in {**own, **others} if own.get(name) != others.get(name)]
    yield f"settings: {len(names) or 'none'} differ from {other}"
    for name in names:
        yield f"  config.{name}: {own.get(name)!r} in {workdir}, {others.get(name)!r} in {other}"


def _sign_of_life(workdir: Path) -> str:
    beat = heartbeat.last(workdir)
    if beat is None:
        return "last heartbeat: never"
    ago = format_duration(max(time.time() - beat["time"], 0.0))
    where = f"process {beat['process']} on {printable(beat['host'])}"
    doing = f", in {printable(beat['doing'])} for {format_duration(beat['seconds'])}" if beat["doing"] else ""
    return f"last heartbeat: {ago} ago, at step {beat['step']}{doing}; {where}"
