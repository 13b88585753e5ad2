"""Runners of preparation jobs: on the cores of this machine, or with an Apache Beam pipeline.

Jobs write their results to files, so a runner returns nothing, and gets only unfinished jobs.
"""

import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

from tqdm import tqdm

from .. import memory
from ..errors import UserError
from ..preparation.shards import Job

Work = Callable[[Job], None]


def run_locally(work: Work, jobs: Iterator[Job], *, workers: int, label: str, total: int, done: int) -> None:
    """Runs the jobs in ``workers`` processes, with a progress bar.

    Raises:
      UserError: a process was killed, for example out of memory; finished jobs are kept.
    """
    context = multiprocessing.get_context(
        "spawn"
    )  # a fork would inherit the threads and locks of this process's libraries
    progress = tqdm(total=total, initial=done, desc=label, unit="shard", smoothing=0.1)
    executor = concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker, (os.getpid(),))
    try:
        waiting: set[concurrent.futures.Future[None]] = set()
        for job in jobs:
            with _interrupts_blocked():
                waiting.add(executor.submit(work, job))
            if len(waiting) >= 2 * workers:  # enough to keep the workers busy, with few jobs in memory
                waiting = _collect(waiting, progress)
        while waiting:
            waiting = _collect(waiting, progress)
    except concurrent.futures.process.BrokenProcessPool as error:
        raise UserError(
            "a worker process was killed, possibly out of memory. Finished work is kept; run the same command again, "
            "with fewer --workers if memory is short."
        ) from error
    finally:
        progress.close()
        executor.shutdown(cancel_futures=True)


def run_with_beam(work: Work, jobs: Iterator[Job], arguments: list[str]) -> None:
    """Runs the jobs on the machines of a Beam runner, which must all see input and output at the same paths.

    Args:
      work: the function to run for each job.
      jobs: the unfinished jobs.
      arguments: options of Beam, such as ``--runner=FlinkRunner``.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UserError('--beam: Apache Beam is not installed. Run: pip install "rankclip_jax[beam]"') from error
    with beam.Pipeline(options=PipelineOptions(arguments)) as pipeline:
        # Reshuffling prevents the runner from fusing all jobs onto one machine.
        _ = pipeline | beam.Create(list(jobs)) | beam.Reshuffle() | beam.Map(work)


def _collect(waiting: set[concurrent.futures.Future[None]], progress: tqdm) -> set[concurrent.futures.Future[None]]:
    finished, waiting = concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED)
    for future in finished:
        future.result()
        progress.update()
    return waiting


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Makes processes that start in this context ignore Ctrl-C, which a terminal sends to all processes.

    A Ctrl-C during the start of a process is raised afterwards, so that it does not interrupt the start.
    """
    received: list[int] = []
    # The mask is for the new process: in this one, another thread may still receive the signal, hence the handler.
    previous = signal.signal(signal.SIGINT, lambda number, _: received.append(number))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.signal(signal.SIGINT, previous)
    if received:
        raise KeyboardInterrupt


def _start_worker(parent: int) -> None:
    """Makes a worker exit when its parent ends for any reason, and return the memory of large images."""
    memory.give_large_back()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
