"""Who does the jobs: the cores of this machine, or the machines of an Apache Beam pipeline.

Jobs leave their results in files, so a runner returns nothing, and a job that was done before is not given to it.
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
    """Does the jobs in ``workers`` processes, with a line that shows the rate and the time left.

    Raises:
      UserError: a process was killed, as happens where memory runs out; what is done stays.
    """
    context = multiprocessing.get_context("spawn")  # a copy of this process would hold whatever its libraries hold
    progress = tqdm(total=total, initial=done, desc=label, unit="shard", smoothing=0.1)
    executor = concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker, (os.getpid(),))
    try:
        waiting: set[concurrent.futures.Future[None]] = set()
        for job in jobs:
            with _signals_left_to_the_parent():
                waiting.add(executor.submit(work, job))
            if len(waiting) >= 2 * workers:  # enough to keep them busy, and no more in memory
                waiting = _collect(waiting, progress)
        while waiting:
            waiting = _collect(waiting, progress)
    except concurrent.futures.process.BrokenProcessPool as error:
        raise UserError(
            "a worker process was killed, as happens where memory runs out. What is done is kept: give the same "
            "command again, with fewer --workers if need be."
        ) from error
    finally:
        progress.close()
        executor.shutdown(cancel_futures=True)


def run_with_beam(work: Work, jobs: Iterator[Job], arguments: list[str]) -> None:
    """Does the jobs on the machines of a Beam runner, which must all reach input and output by the same paths.

    Args:
      work: what is done with each.
      jobs: what is left to do.
      arguments: Beam's own, such as ``--runner=FlinkRunner``.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UserError('--beam: Apache Beam is not installed. Say: pip install "rankclip_jax[beam]"') from error
    with beam.Pipeline(options=PipelineOptions(arguments)) as pipeline:
        # Reshuffling keeps the runner from fusing all jobs into one machine's.
        _ = pipeline | beam.Create(list(jobs)) | beam.Reshuffle() | beam.Map(work)


def _collect(waiting: set[concurrent.futures.Future[None]], progress: tqdm) -> set[concurrent.futures.Future[None]]:
    finished, waiting = concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED)
    for future in finished:
        future.result()
        progress.update()
    return waiting


@contextlib.contextmanager
def _signals_left_to_the_parent() -> Iterator[None]:
    """A process started meanwhile never sees the Ctrl-C that a terminal sends to all of them.

    Nor is its start cut off by one, which would leave it half begun: that comes afterwards.
    """
    came: list[int] = []
    # The mask is for the new process: here another thread may still receive the signal, and this one would hear of it.
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


def _start_worker(parent: int) -> None:
    """Ends when the parent does, however that was, and keeps no memory of large images."""
    memory.give_large_back()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
