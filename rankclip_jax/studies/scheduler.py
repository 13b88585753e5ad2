"""Runs a study: starts its runs in processes of their own, several at a time, and resumes what is not finished."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from rankclip_jax.cli.console import format_duration, say
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.studies import results
from rankclip_jax.studies.definition import Study
from rankclip_jax.studies.plan import Plan, Run, digest
from rankclip_jax.studies.results import Result
from rankclip_jax.studies.worker import PARENT, TAKEN

_POLL = 0.5  # seconds
_RETRY = 10  # seconds until a run that another process does is looked at again
_WORST = -float("inf")  # the score of a failed trial


class Progress:
    """What is finished of a study, and what is next.

    Args:
      study: the study.
      config: the settings of its recipe.
      folder: the study's folder.
    """

    def __init__(self, study: Study, config: ConfigDict, folder: Path) -> None:
        self.study, self._config, self._path = study, config, folder / results.NAME
        self.results: dict[str, Result] = {}
        self.runs: list[Run | None] = []
        self.plan = Plan(study, {})
        self.read()

    def read(self) -> None:
        """Reads the results; those with other settings than the plan's do not count.

        Raises:
          UserError: the results are from different data, or damaged.
        """
        stored = results.read(self._path)
        current: dict[str, Result] = {}
        scores: dict[str, float] = {}
        while True:  # a trial's result may determine the settings of further runs
            self.plan = Plan(self.study, scores)
            self.runs = list(self.plan.runs())
            new = {
                run.name: stored[run.name]
                for run in self.runs
                if run is not None
                and run.name in stored
                and run.name not in current
                and stored[run.name].digest == digest(run, self._config)
            }
            if not new:
                break
            current |= new
            for name, result in new.items():
                score = result.mean(self.study.choose_by)
                scores[name] = _WORST if score is None else score
        if len(data := {result.data for result in current.values()}) > 1:
            raise UserError(
                f"{self._path}: expected results from the same data; found {len(data)} different ones. Use another "
                "--workdir for other data."
            )
        self.results = current

    def ready_runs(self) -> list[Run]:
        """Returns the runs that can start now, in order."""
        return [
            run
            for run in self.runs
            if run is not None
            and run.name not in self.results
            and (run.teacher is None or run.teacher.name in self.results)
        ]

    def line(self, jobs: int) -> str:
        """Returns a line of progress, with the estimated time left if so many runs are done at a time."""
        left = len(self.runs) - len(self.results)
        line = f"{len(self.results)} of {len(self.runs)} runs"
        if not left or not self.results:
            return line
        seconds = sum(result.seconds for result in self.results.values()) / len(self.results)
        return f"{line}, about {format_duration(left * seconds / jobs)} left"


class Stop(Exception):
    """A signal ended the study."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run(progress: Progress, command: Sequence[str], jobs: int, seconds: float) -> None:
    """Does the runs of a study that have no result yet.

    Args:
      progress: what is finished; updated.
      command: the command line that does one run, without the run's name.
      jobs: number of runs at a time.
      seconds: starts no run after that time; runs that have not finished then are stopped, and can be resumed.

    Raises:
      Stop: a signal arrived; all runs have saved.
      UserError: a run cannot start.
    """
    processes: dict[int, tuple[Run, subprocess.Popen]] = {}
    elsewhere: dict[str, float] = {}
    started = time.monotonic()

    def stop(number: int, _: object) -> None:
        raise Stop(number)

    handlers = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        while time.monotonic() - started < seconds:
            busy = {run.name for run, _ in processes.values()}
            busy |= {name for name, until in elsewhere.items() if time.monotonic() < until}
            ready = [run for run in progress.ready_runs() if run.name not in busy]
            for slot in range(jobs):
                if slot not in processes and ready:
                    run = ready.pop(0)
                    processes[slot] = run, _start([*command, "--run", run.name], slot, jobs)
            if not processes and not elsewhere and not ready:
                break
            time.sleep(_POLL)
            for slot, (run, process) in list(processes.items()):
                status = process.poll()
                if status is None:
                    continue
                del processes[slot]
                if status == TAKEN:
                    elsewhere[run.name] = time.monotonic() + _RETRY
                elif status:
                    raise UserError(
                        f"{run.name}: the run ended with status {status}; see its message above. Fix the cause, and "
                        "run the same command again: finished runs are kept."
                    )
                progress.read()
                if not status:
                    result = progress.results.get(run.name)
                    outcome = f"failed: {result.failed}" if result and result.failed else "finished"
                    say(f"{run.name}: {outcome}; {progress.line(jobs)}")
            elsewhere = {name: until for name, until in elsewhere.items() if name not in progress.results}
    finally:
        _stop_all([process for _, process in processes.values()])
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _start(command: Sequence[str], slot: int, jobs: int) -> subprocess.Popen:
    """Starts a run with its share of the cores, or of the GPUs."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=None if jobs == 1 else subprocess.DEVNULL,
        env=_environment(slot, jobs),
        start_new_session=True,  # Ctrl-C reaches only the study, which stops its runs
    )
    if jobs > 1 and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(process.pid, cores[slot::jobs] or cores)
    return process


def _environment(slot: int, jobs: int) -> Mapping[str, str]:
    """Returns the environment of a run, which names this process; with several GPUs, each job sees only its own."""
    own = os.environ | {PARENT: str(os.getpid())}
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if gpus == [""]:
        gpus = [path.name.removeprefix("nvidia") for path in sorted(Path("/dev").glob("nvidia[0-9]*"))]
    if jobs == 1 or not gpus:
        return own
    return own | {"CUDA_VISIBLE_DEVICES": ",".join(gpus[slot::jobs] or [gpus[slot % len(gpus)]])}


def _stop_all(processes: Sequence[subprocess.Popen]) -> None:
    """Asks the runs to save and stop, and waits for them."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait()
