"""Work of another library, in a process of its own and under the best of some settings.

Ours is compared with what a user of the peer would get who knows how to set it up. So each of the settings below that
this machine allows is tried for a moment, one on top of the other; what makes the peer faster is kept, and the table
names both what was tried and what was used.
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
_PATIENCE = 300.0  # seconds for a peer to start, and for an answer when it is tried: `torch.compile` takes minutes

_PACKAGES = {"open_clip": "open_clip_torch", "clip_benchmark": "clip-benchmark"}  # where the names differ

_PR_SET_PDEATHSIG = 1  # of prctl(2)

# Makes Intel's MKL, which is linked into PyTorch, take its fast kernels on AMD's processors too; its variables
# MKL_DEBUG_CPU_TYPE and MKL_ENABLE_INSTRUCTIONS no longer do.
_UNLOCKING = "int mkl_serv_intel_cpu_true(void) { return 1; }\n"


class PeerError(Exception):
    """The peer cannot be measured; the message says why."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """One thing that a user of the peer may turn on.

    Args:
      name: as the table has it.
      variables: of the environment that it sets.
      option: the word that the peer's process is told; empty: none.
      refusal: why it cannot be tried here; None: it can.
    """

    name: str
    variables: Mapping[str, str] = dataclasses.field(default_factory=dict)
    option: str = ""
    refusal: str | None = None


@dataclasses.dataclass(frozen=True)
class Trial:
    """One combination of settings that was tried.

    Args:
      settings: their names, by plus signs.
      seconds: of the work done once; None: it could not be done.
      refusal: why not.
    """

    settings: str
    seconds: float | None = None
    refusal: str | None = None

    def __str__(self) -> str:
        return (
            f"{self.settings}: {f'{1e3 * self.seconds:,.0f} ms' if self.seconds else f'not possible ({self.refusal})'}"
        )


class Peer:
    """A process that does work on demand. It is stopped between its turns: some of its threads wait by spinning."""

    def __init__(self, module: str, words: Sequence[str], settings: Sequence[Setting] = ()) -> None:
        """Starts ``python -m module words options`` and waits until it is ready.

        Args:
          module: calls `serve`.
          words: of its command line.
          settings: what is turned on.

        Raises:
          PeerError: it does not start.
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
            stderr=subprocess.DEVNULL if "compiled" in options else None,  # its compiler says a lot
            text=True,
        )
        answer = self._answer(_PATIENCE)
        if answer != READY:
            self.close()
            raise PeerError(answer or "it does not start")
        self._process.send_signal(signal.SIGSTOP)

    def seconds(self, count: int, patience: float | None = None) -> float:
        """Seconds of the work done once, of ``count`` times.

        Args:
          count: how often to do it.
          patience: seconds after which it is given up; None: never.

        Raises:
          PeerError: it has failed, or does not answer.
        """
        process = self._process
        assert process.stdin
        process.send_signal(signal.SIGCONT)
        try:
            process.stdin.write(f"{count}\n")
            process.stdin.flush()
            answer = self._answer(patience)
        except BrokenPipeError as error:
            raise PeerError("it has ended") from error
        finally:
            process.send_signal(signal.SIGSTOP)
        try:
            return float(answer)
        except ValueError:
            raise PeerError(answer or "it ended while it worked") from None

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
    """The other side of `Peer`: says `READY`, and answers each line, a count, with the seconds of the work done once.

    Args:
      prepare: loads what is needed and makes the work; raises PeerError where that cannot be done here.
    """
    if sys.platform.startswith("linux"):  # a stopped process would outlive the one that started it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries may print what they like
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
    """The peer under the fastest combination of settings that was found, with its ``trials``.

    Each setting is tried on top of those that have helped so far. One peer at a time holds memory.

    Raises:
      PeerError: it does not even work plain.
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
    """Seconds of the work done once, when warm, and the combination's name."""
    with Peer(module, words, settings) as peer:
        peer.seconds(1, _PATIENCE)
        return min(peer.seconds(1, _PATIENCE), peer.seconds(1, _PATIENCE)), peer.name


@contextlib.contextmanager
def settings_of_pytorch(platform: str, *, trains: bool) -> Iterator[list[Setting]]:
    """What may make PyTorch faster here; the library that unlocks MKL is there while the context is.

    Args:
      platform: ``"cpu"`` or ``"gpu"``.
      trains: whether it trains, rather than embeds: the optimiser and `torch.compile` belong to that.
    """
    with tempfile.TemporaryDirectory() as folder:
        settings = []
        if platform == "cpu":
            settings = [Setting("memory kept", option="keep_memory"), _unlocked(Path(folder))]
        if trains:
            settings += [Setting("fused AdamW", option="fused"), Setting("torch.compile", option="compiled")]
        yield settings


def _unlocked(folder: Path) -> Setting:
    """MKL's fast kernels on processors that are not Intel's."""
    name, compiler = "MKL unlocked", next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if _vendor() in (None, "GenuineIntel"):
        return Setting(name, refusal="the processor is not AMD's")
    if not compiler:
        return Setting(name, refusal="no C compiler here")
    source, library = folder / "unlock.c", folder / "unlock.so"
    source.write_text(_UNLOCKING)
    command = [compiler, "-shared", "-fPIC", "-o", str(library), str(source)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        return Setting(name, refusal=f"{compiler} fails")
    return Setting(name, {"LD_PRELOAD": " ".join(filter(None, [os.environ.get("LD_PRELOAD"), str(library)]))})


def _vendor() -> str | None:
    """Of an x86 processor; None: another one, or the system does not say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("vendor_id"):
                return line.partition(":")[2].strip()
    return None


def install_hint(modules: Sequence[str]) -> str:
    """What to install where modules of a peer are missing."""
    packages = [_PACKAGES.get(name, name) for name in modules]
    return f"{' and '.join(modules)} not installed; install with: pip install {' '.join(packages)}"


def columns_of(peer: Peer) -> dict[str, Any]:
    """What a row tells of a peer's settings: those used, and all that were tried."""
    return {"settings": peer.name, "tried": [dataclasses.asdict(trial) for trial in peer.trials]}


def format_trials(peer: Peer) -> str:
    """The same for people, a line."""
    return f"    settings of the peer: {peer.name}; tried: {'; '.join(map(str, peer.trials))}"
