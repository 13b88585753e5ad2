"""Peers: workloads of another library, each in a separate process and with the fastest of several settings.

The comparison is with a peer that is set up by an expert. Each setting below that this machine supports is tried
briefly on top of those kept so far, and is kept if it makes the peer faster. The table lists the settings that were
tried and those that were used.
"""

import contextlib
import ctypes
import dataclasses
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

READY = "ready"
_PATIENCE = 300.0  # seconds for a peer to start, and to answer in a trial: `torch.compile` takes minutes

_PACKAGES = {
    "open_clip": "open_clip_torch",
    "clip_benchmark": "clip-benchmark",
}  # where the package's name differs from the module's

_PR_SET_PDEATHSIG = 1  # of prctl(2)

# Makes Intel's MKL, which is linked into PyTorch, use its fast kernels on AMD's processors too. The environment
# variables MKL_DEBUG_CPU_TYPE and MKL_ENABLE_INSTRUCTIONS no longer do so.
_UNLOCKING = "int mkl_serv_intel_cpu_true(void) { return 1; }\n"


class PeerError(Exception):
    """The peer cannot be measured; the message says why."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting that may make a peer faster.

    Args:
      name: the name in the table.
      variables: environment variables to set.
      option: argument to pass to the peer's process; empty: none.
      refusal: the reason why this machine does not support it; None: supported.
    """

    name: str
    variables: Mapping[str, str] = dataclasses.field(default_factory=dict)
    option: str = ""
    refusal: str | None = None


@dataclasses.dataclass(frozen=True)
class Trial:
    """A combination of settings that was tried.

    Args:
      settings: the names of the settings, joined by plus signs.
      seconds: time of one execution; None: it failed.
      refusal: the reason of the failure.
    """

    settings: str
    seconds: float | None = None
    refusal: str | None = None

    def __str__(self) -> str:
        return (
            f"{self.settings}: {f'{1e3 * self.seconds:,.0f} ms' if self.seconds else f'not possible ({self.refusal})'}"
        )


class Peer:
    """A process that runs its workload on demand. It is stopped between turns, since some of its threads busy-wait."""

    def __init__(self, module: str, words: Sequence[str], settings: Sequence[Setting] = ()) -> None:
        """Starts ``python -m module words options`` and waits until it is ready.

        Args:
          module: a module that calls `serve`.
          words: its command-line arguments.
          settings: the settings to apply.

        Raises:
          PeerError: the process does not start.
        """
        variables = {name: value for setting in settings for name, value in setting.variables.items()}
        options = [setting.option for setting in settings if setting.option]
        self.name = " + ".join(setting.name for setting in settings) or "plain"
        self.trials: list[Trial] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *words, *options],
            env=os.environ | variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if "compiled" in options else None,  # the compiler's output is verbose
            text=True,
        )
        answer = self._answer(_PATIENCE)
        if answer != READY:
            self.close()
            raise PeerError(answer or "the process does not start")
        self._process.send_signal(signal.SIGSTOP)

    def seconds(self, count: int, patience: float | None = None) -> float:
        """Returns the mean seconds of ``count`` executions.

        Args:
          count: number of executions.
          patience: timeout in seconds; None: no timeout.

        Raises:
          PeerError: the process failed, or does not answer.
        """
        process = self._process
        assert process.stdin
        process.send_signal(signal.SIGCONT)
        try:
            process.stdin.write(f"{count}\n")
            process.stdin.flush()
            answer = self._answer(patience)
        except BrokenPipeError as error:
            raise PeerError("the process has ended") from error
        finally:
            process.send_signal(signal.SIGSTOP)
        try:
            return float(answer)
        except ValueError:
            raise PeerError(answer or "the process ended during its work") from None

    def _answer(self, patience: float | None) -> str:
        assert self._process.stdout
        if not select.select([self._process.stdout], [], [], patience)[0]:
            self.close()
            raise PeerError(f"no answer within {patience:.0f} s")
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> "Peer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def serve(prepare: Callable[[], Callable[[], Any]]) -> None:
    """Runs the peer's side of the protocol: prints `READY`, and answers each line, a count, with the mean seconds.

    Args:
      prepare: loads the libraries and returns the workload; raises PeerError if this machine does not support it.
    """
    if sys.platform.startswith("linux"):  # a stopped process would outlive the one that started it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # output of libraries goes to stderr
    try:
        work = prepare()
        print(READY, file=answers)
        for line in sys.stdin:
            start = time.perf_counter()
            for _ in range(int(line)):
                work()
            print((time.perf_counter() - start) / int(line), file=answers)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        print(reason if isinstance(error, PeerError) else f"{type(error).__name__}: {reason}", file=answers)


def choose(module: str, words: Sequence[str], settings: Sequence[Setting]) -> Peer:
    """Starts the peer with the fastest combination of settings, and records its ``trials``.

    Each setting is tried on top of those that helped so far. Only one peer at a time holds memory.

    Raises:
      PeerError: the peer does not work without settings.
    """
    names = ["plain", *(setting.name for setting in settings if not setting.refusal)]
    print(f"trying settings of {module.rpartition('.')[2]}: {', '.join(names)}", flush=True)
    kept: list[Setting] = []
    fastest, name = _try(module, words, kept)
    trials = [Trial(name, fastest)]
    for setting in settings:
        if setting.refusal:
            trials.append(Trial(setting.name, refusal=setting.refusal))
            continue
        try:
            seconds, name = _try(module, words, [*kept, setting])
        except PeerError as error:
            trials.append(Trial(setting.name, refusal=str(error)))
            continue
        trials.append(Trial(name, seconds))
        if seconds < fastest:
            fastest, kept = seconds, [*kept, setting]
    best = Peer(module, words, kept)
    best.trials = trials
    return best


def _try(module: str, words: Sequence[str], settings: Sequence[Setting]) -> tuple[float, str]:
    """Returns the seconds of one execution after warm-up, and the combination's name."""
    with Peer(module, words, settings) as peer:
        peer.seconds(1, _PATIENCE)
        return min(peer.seconds(1, _PATIENCE), peer.seconds(1, _PATIENCE)), peer.name


@contextlib.contextmanager
def settings_of_pytorch(platform: str, *, trains: bool) -> Iterator[list[Setting]]:
    """A context with the settings that may make PyTorch faster; the library that unlocks MKL exists only inside it.

    Args:
      platform: ``"cpu"`` or ``"gpu"``.
      trains: whether the workload is training, to which the optimizer and `torch.compile` apply.
    """
    with tempfile.TemporaryDirectory() as folder:
        settings = []
        if platform == "cpu":
            settings = [Setting("memory kept", option="keep_memory"), _unlocked(Path(folder))]
        if trains:
            settings += [Setting("fused AdamW", option="fused"), Setting("torch.compile", option="compiled")]
        yield settings


def _unlocked(folder: Path) -> Setting:
    """Returns the setting that makes MKL use its fast kernels on AMD's processors."""
    name, compiler = "MKL unlocked", next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if _vendor() in (None, "GenuineIntel"):
        return Setting(name, refusal="the processor is not AMD's")
    if not compiler:
        return Setting(name, refusal="no C compiler")
    source, library = folder / "unlock.c", folder / "unlock.so"
    source.write_text(_UNLOCKING)
    command = [compiler, "-shared", "-fPIC", "-o", str(library), str(source)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        return Setting(name, refusal=f"{compiler} fails")
    return Setting(name, {"LD_PRELOAD": " ".join(filter(None, [os.environ.get("LD_PRELOAD"), str(library)]))})


def _vendor() -> str | None:
    """Returns the vendor of an x86 processor; None: another processor, or unknown."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("vendor_id"):
                return line.partition(":")[2].strip()
    return None


def install_hint(modules: Sequence[str]) -> str:
    """Returns a hint how to install the missing modules of a peer."""
    packages = [_PACKAGES.get(name, name) for name in modules]
    return f"{' and '.join(modules)} not installed. Run: pip install {' '.join(packages)}"


def columns_of(peer: Peer) -> dict[str, Any]:
    """Returns a row's columns about a peer's settings: those used, and all that were tried."""
    return {"settings": peer.name, "tried": [dataclasses.asdict(trial) for trial in peer.trials]}


def format_trials(peer: Peer) -> str:
    """Formats a peer's settings as a line of text."""
    return f"    settings of the peer: {peer.name}; tried: {'; '.join(map(str, peer.trials))}"
