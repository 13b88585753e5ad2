"""Each fault: from a workdir to its run's end, with what must be true on the way."""

import contextlib
import json
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from tests.soak import harness
from tests.soak.harness import (
    DEADLINE,
    FIRST_STEP,
    STEPS,
    Attempt,
    Broken,
    Shape,
    check_same,
    finish,
    flip_a_bit,
    losses,
    newest,
    state_of,
)

_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1)
_MOMENTS = ("start", "compile", "step", "evaluation", "save")


def a_signal(workdir: Path, undisturbed: Path, draw: random.Random) -> str:
    """One of three signals to one process or to all, at a moment of a kind that is drawn first."""
    number, which, moment = draw.choice(_SIGNALS), draw.choice(([0], [1], [0, 1])), draw.choice(_MOMENTS)
    attempt = Attempt(workdir, Shape())
    _wait_for(attempt, moment, workdir, draw)
    attempt.send(number, which)
    attempt.end(DEADLINE)
    told = f"{number.name} of {which} at {moment}"
    saved = "Stopped and saved at step" in attempt.said
    if number != signal.SIGKILL and FIRST_STEP in attempt.said and f"step {STEPS}/" not in attempt.said and not saved:
        raise Broken(f"{told}: nothing was saved\n{attempt.said}")
    finish(workdir)
    check_same(workdir, undisturbed)
    return told


def a_kill_during_a_save(workdir: Path, undisturbed: Path, draw: random.Random) -> str:
    which = draw.choice(([0], [1], [0, 1]))
    attempt = Attempt(workdir, Shape())
    _wait_for(attempt, "save", workdir, draw)
    attempt.send(signal.SIGKILL, which)
    attempt.end(DEADLINE)
    finish(workdir)
    check_same(workdir, undisturbed)
    return f"SIGKILL of {which}"


def a_damaged_checkpoint(workdir: Path, undisturbed: Path, draw: random.Random) -> str:
    """Truncates, flips a bit in, or deletes any file of the newest of the undisturbed run's."""
    shutil.copytree(undisturbed, workdir)
    for path in undisturbed.parent.glob(f"{undisturbed.name}.records.*"):
        shutil.copy(path, workdir.with_name(path.name.replace(undisturbed.name, workdir.name, 1)))
    files = sorted(path for path in newest(workdir).rglob("*") if path.is_file() and path.stat().st_size)
    path, how = draw.choice(files), draw.choice(("truncate", "flip", "delete"))
    match how:
        case "truncate":
            path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])
        case "flip":
            flip_a_bit(path, draw)
        case "delete":
            path.unlink()
    told = f"{how} {path.relative_to(workdir)}"
    said = finish(workdir, attempts=1)
    if str(path.name) not in said or "resuming from step 36" not in said:
        raise Broken(f"{told}: not found\n{said}")
    check_same(workdir, undisturbed)
    return told


def a_process_that_stops(workdir: Path, undisturbed: Path, draw: random.Random) -> str:
    """SIGSTOP of process 1: the other ends, and names it and its host."""
    attempt = Attempt(workdir, Shape())
    _wait_for(attempt, "step", workdir, draw)
    attempt.send(signal.SIGSTOP, [1])
    start = time.monotonic()
    while attempt.processes[0].poll() is None:
        if time.monotonic() - start > DEADLINE * harness.slowness:
            raise Broken(f"process 0 waits for ever\n{attempt.said}")
        time.sleep(0.1)
    took = time.monotonic() - start
    attempt.send(signal.SIGKILL, [1])
    attempt.end(DEADLINE)
    if f"1 on {socket.gethostname()}" not in attempt.said:
        raise Broken(f"it is not named\n{attempt.said}")
    finish(workdir)
    check_same(workdir, undisturbed)
    return f"the other ended after {took:.0f} s"


def other_shapes(workdir: Path, undisturbed: Path, draw: random.Random) -> str:
    """8 -> 4 -> 2 -> 8 devices, 2 -> 1 -> 2 processes, data-parallel to fully sharded and back, in any order."""
    shapes = [
        Shape(1, 8),
        Shape(2, 2),
        Shape(2, 1),
        Shape(1, 4, ("--config.mesh.fsdp=4",)),
        Shape(2, 4, ("--config.mesh.fsdp=4",)),
        Shape(2, 4),
    ]
    draw.shuffle(shapes)
    for shape in shapes:
        attempt = Attempt(workdir, shape)
        count = draw.randrange(2, 8)
        attempt.wait_for(lambda a=attempt, n=count: a.said.count(" pairs/s ") >= n)
        attempt.send(signal.SIGTERM, [0])
        attempt.end(DEADLINE)
    finish(workdir)
    np.testing.assert_allclose(losses(workdir), losses(undisturbed), rtol=1e-4)
    return " -> ".join(f"{shape.processes}x{shape.devices}{' fsdp' if shape.flags else ''}" for shape in shapes)


def a_slow_host(workdir: Path, undisturbed: Path, draw: random.Random) -> str:
    """A process that stands still for some seconds, again and again, and a coordinator that starts last."""
    attempt = Attempt(workdir, Shape(), delays=(0.0, draw.uniform(3, 12)))
    pauses = [draw.uniform(0.5, 5) for _ in range(3)]
    for pause in pauses:
        _wait_for(attempt, "step", workdir, draw)
        attempt.send(signal.SIGSTOP, [1])
        time.sleep(pause)
        attempt.send(signal.SIGCONT, [1])
    if any(attempt.end(300)):
        raise Broken(attempt.said)
    check_same(workdir, undisturbed)
    return f"pauses of {', '.join(f'{pause:.1f}' for pause in pauses)} s"


def a_number_that_is_not_finite(workdir: Path, undisturbed: Path, draw: random.Random) -> str:
    """In what is made of a batch, in a gradient, in a parameter, under each policy: as configured, and never saved."""
    where, policy = draw.choice(("batch", "gradient", "parameter")), draw.choice(("stop", "skip", "rollback"))
    bad = draw.randrange(8, STEPS)
    told, wanted = f"a {where} of step {bad}, {policy}", f"--config.train.on_nonfinite={policy}"
    attempt = Attempt(workdir, Shape(flags=(wanted,), variables=(("SOAK_NAN", f"{bad} {where}"),)))
    statuses = attempt.end(300)
    events = [line for line in (workdir / "events.jsonl").read_text().splitlines() if '"not_finite"' in line]
    if not events or f'"step": {bad}' not in events[0] or '"records": ["' not in events[0]:
        raise Broken(f"{told}: not recorded\n{attempt.said}")
    for folder in (workdir / "checkpoints").iterdir():
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state_of(folder)) if leaf.dtype.kind == "f"):
            raise Broken(f"{told}: {folder} is not finite")
    ends = policy == "rollback" or (policy == "skip" and where != "parameter")  # which stays bad, whatever is skipped
    if any(statuses) == ends or (ends and newest(workdir).name != str(STEPS)):
        raise Broken(f"{told}: ended with {statuses}\n{attempt.said}")
    if policy == "stop":
        finish(workdir, Shape(flags=(wanted,)))
        check_same(workdir, undisturbed)
    return told


def a_disk_that_cannot_be_written(workdir: Path, undisturbed: Path, draw: random.Random) -> str:
    """Full from some moment on, or read-only at the next start: said, nothing lost, and all as ever afterwards."""
    how = draw.choice(("full", "read-only"))
    workdir.mkdir()
    mount("-t", "tmpfs", "-o", "size=64m", "tmpfs", workdir)
    try:
        attempt = Attempt(workdir, Shape())
        _wait_for(attempt, draw.choice(("step", "save", "evaluation")), workdir, draw)
        if how == "full":
            fill(workdir / "ballast")
            attempt.end(DEADLINE)
            (workdir / "ballast").unlink()
        else:
            attempt.send(signal.SIGTERM, [0])
            attempt.end(DEADLINE)
            mount("-o", "remount,ro", workdir)
            attempt = Attempt(workdir, Shape())
            attempt.end(DEADLINE)
            mount("-o", "remount,rw", workdir)
        ended = how == "full" and f"step {STEPS}/" in attempt.said  # before it had anything more to write
        if "Traceback" in attempt.said or not ("--workdir: " in attempt.said or ended):
            raise Broken(f"{how}: not said clearly\n{attempt.said}")
        finish(workdir)
        check_same(workdir, undisturbed)
    finally:
        subprocess.run(["umount", "--lazy", workdir], check=True)
    return how


def a_clock_that_is_set(workdir: Path, undisturbed: Path, draw: random.Random) -> str:
    """An hour or a day back or forth, again and again; a signal falls into it, too."""
    jumping = Shape(variables=(("SOAK_CLOCK", "1"),))
    attempt = Attempt(workdir, jumping)
    _wait_for(attempt, draw.choice(_MOMENTS[2:]), workdir, draw)
    attempt.send(signal.SIGTERM, [draw.randrange(2)])
    attempt.end(DEADLINE)
    finish(workdir, jumping)
    check_same(workdir, undisturbed)
    seconds = [json.loads(line)["seconds"] for line in (workdir / "goodput.jsonl").read_text().splitlines()]
    if not all(0 <= value < 3000 for attempt_seconds in seconds for value in attempt_seconds.values()):
        raise Broken(f"the ledger of time took the clock's word: {seconds}")
    return "a SIGTERM meanwhile"


# How often each is drawn in a whole soak; the cheapest first: by the starts and pauses that a run of it takes.
FAULTS: dict[Callable[[Path, Path, random.Random], str], int] = {
    a_damaged_checkpoint: 100,  # one start, from a run that is there
    a_kill_during_a_save: 20,
    a_signal: 50,
    a_number_that_is_not_finite: 18,
    a_disk_that_cannot_be_written: 6,
    a_clock_that_is_set: 4,
    a_process_that_stops: 5,  # and the wait until it is given up
    a_slow_host: 5,
    other_shapes: 8,  # seven starts, each compiled anew
}


def _wait_for(attempt: Attempt, moment: str, workdir: Path, draw: random.Random) -> None:
    """Until a moment of a kind, and a little longer."""
    match moment:
        case "start":
            time.sleep(draw.uniform(0.5, 4))
        case "compile":
            attempt.wait_for(lambda: "compiling the training step" in attempt.said)
            time.sleep(draw.uniform(0, 1))
        case "step":
            count = attempt.said.count(" pairs/s ") + draw.randrange(1, 12)
            attempt.wait_for(lambda: attempt.said.count(" pairs/s ") >= count)
        case "evaluation":
            step = draw.choice((10, 20, 30))
            attempt.wait_for(lambda: f"step {step}/" in attempt.said)
            time.sleep(draw.uniform(0, 0.3))
        case "save":
            number = draw.randrange(4)
            attempt.wait_for(lambda: _begun_saves(workdir) > number)
            time.sleep(draw.uniform(0, 0.05))


def mount(*words: str | Path) -> None:
    subprocess.run(["mount", *words], check=True)


def fill(path: Path) -> None:
    """With as much as the disk takes."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))


def _begun_saves(workdir: Path) -> int:
    folder = workdir / "checkpoints"
    return sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0
