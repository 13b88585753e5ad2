"""How a run stands, from the files of its workdir."""

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rankclip_jax.recipes import flatten
from rankclip_jax.run.workdir import read_config, saved_steps
from rankclip_jax.telemetry import events, goodput, heartbeat
from rankclip_jax.telemetry.clock import format_duration


def describe(workdir: Path) -> Iterator[str]:
    """Lines: the run, its checkpoints, its last sign of life, where its time goes, and what happened to it.

    Raises:
      UserError: there is no run.
    """
    config = read_config(workdir)
    yield f"{workdir}: {config['model']['name']}, {config['objective']['name']}"
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
        yield f"event: {event}, {count} time(s)"


def describe_differences(workdir: Path, other: Path) -> Iterator[str]:
    """Lines: the settings of two runs that are not the same.

    Raises:
      UserError: one of them is no run.
    """
    here, there = (dict(flatten(read_config(folder))) for folder in (workdir, other))
    names = [name for name in {**here, **there} if here.get(name) != there.get(name)]
    yield f"settings: {len(names) or 'none'} differ from {other}"
    for name in names:
        yield f"  config.{name}: {here.get(name)!r} in {workdir}, {there.get(name)!r} in {other}"


def _sign_of_life(workdir: Path) -> str:
    beat = heartbeat.last(workdir)
    if beat is None:
        return "last heard of: never"
    ago = format_duration(max(time.time() - beat["time"], 0.0))
    doing = f", in {beat['doing']} for {format_duration(beat['seconds'])}" if beat["doing"] else ""
    return f"last heard of: {ago} ago, at step {beat['step']}{doing}; process {beat['process']} on {beat['host']}"
