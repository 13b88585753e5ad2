"""Signals at random moments to every launcher, over processes that obey, save first, or hear nothing.

python -m tests.launch.random_signals 500 [SEED]

What must come out: the launcher ends, nothing that it started is left, and its exit status says what happened.
"""

import contextlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGALRM, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
LAUNCHERS = ("local.sh", "supervise.sh", "supervise.sh over local.sh", "ssh.sh", "tpu-vm.sh", "slurm.sh")
_SAVED, _LIFE = 9, 2.5  # the exit status of a process that saves first; seconds that one lives which hears nothing
_HEARS = ["env", "--default-signal=HUP,INT,QUIT"]  # a shell cannot hear what it was started to ignore

# A training, with a worker where its launcher is to end that; arguments: what it does at a signal, milliseconds that it
# lives, its exit status then.
_CHILD = f"""
case $1 in
saves) trap 'sleep 0.2; exit {_SAVED}' HUP INT TERM USR1 USR2 ;;
deaf) trap '' HUP INT QUIT ALRM TERM USR1 USR2 ;;
esac
if [ -n "$SPAWNS" ]; then sleep 60 & worker=$!; fi
end=$(($(date +%s%3N) + $2))
while [ "$(date +%s%3N)" -lt "$end" ]; do sleep 0.05; done
[ -n "$SPAWNS" ] && kill -KILL "$worker"
exit "$3"
"""
_STUBS = {
    # The command of another host goes on when the connection ends; its shell hears of that.
    "ssh": """
setsid bash -c "${@: -1}" & remote=$!
trap 'kill -HUP $remote; exit 255' HUP INT TERM USR1 USR2
wait $remote""",
    "gcloud": """
for word in "$@"; do case $word in --command=*) command=${word#*=} ;; esac; done
setsid bash -c "$command" & remote=$!
trap 'kill -HUP $remote; exit 255' HUP INT TERM USR1 USR2
wait $remote""",
    "srun": """
while [ "$1" != child.sh ]; do shift; done
echo $$ >job.partial; mv job.partial job
exec bash "${@:1:1}" "${@:4}" """,
    "scancel": """
for try in {1..100}; do [ -e job ] && break; sleep 0.01; done
kill -USR1 "$(cat job)" """,
    "scontrol": "touch requeued",
}


def trial(seed: int, launcher: str | None = None) -> str | None:
    """What went wrong with one launcher, or None."""
    rng = random.Random(seed)
    launcher, manner = launcher or rng.choice(LAUNCHERS), rng.choice(("obeys", "saves", "deaf", "finishes", "fails"))
    life = _LIFE if manner in ("obeys", "saves", "deaf") else rng.uniform(0.1, 1)
    signals = [(rng.uniform(0, 2), rng.choice(SIGNALS)) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "child.sh").write_text(_CHILD)
        for stub, text in _STUBS.items():
            (folder / stub).write_text(f"#!/usr/bin/env bash\n{text}\n")
            (folder / stub).chmod(0o755)
        (folder / "hosts").write_text("one\ntwo\n")
        child = ["bash", "child.sh", manner, str(int(life * 1000)), "0" if manner != "fails" else "7"]
        local = [ROOT / "launch" / "local.sh", "2"]
        command = {
            "local.sh": [*local, *child],
            "supervise.sh": [ROOT / "launch" / "supervise.sh", *child, "--workdir=run"],
            "supervise.sh over local.sh": [ROOT / "launch" / "supervise.sh", *local, *child, "--workdir=run"],
            "ssh.sh": [ROOT / "launch" / "ssh.sh", "hosts", *child],
            "tpu-vm.sh": [ROOT / "launch" / "tpu-vm.sh", "pod", *child],
            "slurm.sh": [ROOT / "launch" / "slurm.sh", *child[2:]],
        }[launcher]
        variables = os.environ | {
            "PATH": f"{folder}:{os.environ['PATH']}", "PATIENCE": "1", "PAUSE": "0", "FAILURES": "2", "ZONE": "z",
            "PYTHON": "child.sh", "SLURM_JOB_ID": "1", "REMOTE_FOLDER": name, "TRIAL": name,
            "SPAWNS": "yes" if launcher in ("local.sh", "supervise.sh") else "",
        }  # fmt: skip
        said = open(folder / "said", "wb")  # noqa: SIM115  # closed below, when all have ended
        start = time.monotonic()
        running = subprocess.Popen([*_HEARS, *command], cwd=folder, env=variables, stdout=said, stderr=said)
        sent = []
        for after, number in sorted(signals):
            time.sleep(max(start + after - time.monotonic(), 0))
            if running.poll() is None:
                running.send_signal(number)
                sent.append(number)
        words = f"seed {seed}: {launcher}, {manner}, {[(round(after, 3), one.name) for after, one in sorted(signals)]}"
        try:
            status = running.wait(30)
        except subprocess.TimeoutExpired:
            running.kill()
            return f"{words}: still there\n{(folder / 'said').read_text()}"
        patience = (
            5 if launcher in ("ssh.sh", "tpu-vm.sh") else 0.5
        )  # a host beyond ssh is told when the connection ends
        left = _left(name, patience)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        said.close()
        text = (folder / "said").read_text()
        if left:
            return f"{words}: {len(left)} processes are left\n{text}"
        if status not in _expected(launcher, manner, sent):
            return f"{words}: status {status}\n{text}"
        if "unbound" in text or "syntax" in text or "integer" in text:
            return f"{words}: {text}"
    return None


def _expected(launcher: str, manner: str, sent: list[signal.Signals]) -> set[int | None]:
    """The exit statuses that are right; signals may come before the launcher listens, or after the end.

    Before it listens the shell ignores SIGQUIT, and any other ends it.
    """
    before, by_signal = {-number for number in sent}, {128 + number for number in sent}
    by_itself = {{"finishes": 0, "fails": 7}.get(manner)} | ({0} if set(sent) <= {signal.SIGQUIT} else set())
    if launcher in ("local.sh", "ssh.sh", "tpu-vm.sh"):
        return before | by_signal | by_itself
    # The others end with what they run: with its status, by the signals that reach it, or with what it says itself.
    result = before | by_signal | by_itself
    if launcher == "slurm.sh":
        result |= {128 + signal.SIGUSR1}
    return result | {"saves": {_SAVED}, "deaf": {0}}.get(manner, set())


def _left(name: str, patience: float) -> list[int]:
    """The processes of a trial that are there after so many seconds."""
    end = time.monotonic() + patience
    while (left := list(_processes_of(name))) and time.monotonic() < end:
        time.sleep(0.05)
    return left


def _processes_of(name: str) -> list[int]:
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if f"TRIAL={name}\0".encode() in (place / "environ").read_bytes() and int(place.name) != os.getpid():
                found.append(int(place.name))
        except OSError:
            continue
    return found


def main() -> None:
    """Prints what went wrong, and how many trials there were."""
    count, first = (int(word) for word in (*sys.argv[1:3], *("100", "0")[len(sys.argv) - 1 :])[:2])
    assert shutil.which("setsid")
    with ThreadPoolExecutor(8) as threads:
        wrong = [said for said in threads.map(trial, itertools.islice(itertools.count(first), count)) if said]
    print(*wrong, f"{count} trials, {len(wrong)} went wrong", sep="\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
