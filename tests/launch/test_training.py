"""Runs of two processes as launchers start them: on this machine, by ssh and under SLURM, and what they compute.

A server of ssh or of SLURM is started for the test, on the loopback address and in a folder of its own; where one is
not installed (Debian: openssh-server; slurmctld, slurmd) its test is skipped.
"""

import contextlib
import getpass
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.launch.test_launch import HEARING, ROOT, launch
from tests.training.conftest import SMALL_FLAGS

pytestmark = pytest.mark.slow

FLAGS = [*SMALL_FLAGS, "--config.objective.name=clip", "--config.train.steps=8", "--config.data.validation_examples=0"]
TRAIN = ["env", "JAX_PLATFORMS=cpu", "JAX_NUM_CPU_DEVICES=1", sys.executable, "-m", "rankclip_jax.train", *FLAGS]
LONG = [
    "--config.train.steps=100000",
    "--config.checkpoint.every_steps=1000000",
    "--config.processes.heartbeat_seconds=10",
]


def losses(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    launch("local.sh", "1", *TRAIN, "--workdir", str(workdir))
    return workdir


def forget_the_end(workdir):
    """Leaves of a run what was saved at step 5."""
    shutil.rmtree(workdir / "checkpoints" / "8")


def until(reached, seconds=100):
    """Waits for a condition."""
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def program(name):
    """A server's, or the test is skipped."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if not found:
        pytest.skip(f"{name} is not installed")
    return found


@contextlib.contextmanager
def serving(*commands, **variables):
    servers = [
        subprocess.Popen(command, env=os.environ | variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for command in commands
    ]
    try:
        yield
    finally:
        for server in servers:
            server.terminate()
        for server in servers:
            server.wait(60)


@pytest.fixture(scope="module")
def ssh(tmp_path_factory):
    """The options of a client that reach a server of ours."""
    server, folder, port = program("sshd"), tmp_path_factory.mktemp("ssh"), free_port()
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # which it insists on
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (folder / "config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\n"
        f"PidFile {folder}/pid\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n"
    )
    options = f"-p {port} -i {folder}/user -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -q"
    with serving([server, "-D", "-f", folder / "config"]):
        until(lambda: not subprocess.run(["ssh", *options.split(), "127.0.0.1", "true"], check=False).returncode, 20)
        yield options


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The settings of a cluster of this machine; JAX takes the port of a job from its number."""
    control, node, folder = program("slurmctld"), program("slurmd"), tmp_path_factory.mktemp("slurm")
    host = socket.gethostname().partition(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir()
    settings = folder / "slurm.conf"
    settings.write_text(f"""
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/none
AuthInfo=cred_expire=30
CredType=cred/none
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
SlurmUser={getpass.getuser()}
SlurmdUser={getpass.getuser()}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/control.pid
SlurmdPidFile={folder}/node.pid
SlurmctldLogFile={folder}/control.log
SlurmdLogFile={folder}/node.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
FirstJobId={free_port()}
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
""")
    settings = {"SLURM_CONF": str(settings)}
    with serving([control, "-D"], [node, "-D"], **settings):
        until(lambda: "idle" in subprocess.run(["sinfo"], env=os.environ | settings, capture_output=True, text=True,
                                               check=False).stdout, 30)  # fmt: skip
        yield settings


def test_two_local_processes_train_as_one(alone, tmp_path):
    done = launch("local.sh", "2", *TRAIN, "--workdir", str(tmp_path))
    np.testing.assert_allclose(losses(tmp_path), losses(alone), rtol=1e-5)
    assert "2 process(es)" in done.stdout
    assert done.stdout.count("step 8/8") == 1  # said by one of them
    forget_the_end(tmp_path)
    assert "resuming from step 5" in launch("local.sh", "1", *TRAIN, "--workdir", str(tmp_path)).stdout
    np.testing.assert_allclose(losses(tmp_path), losses(alone), rtol=1e-4)


def test_four_processes_in_a_hybrid_layout_train_as_one(alone, tmp_path):
    flags = ["--config.mesh.replica=2", "--config.mesh.fsdp=2", "--workdir", str(tmp_path)]
    launch("local.sh", "4", *TRAIN, *flags)
    np.testing.assert_allclose(losses(tmp_path), losses(alone), rtol=1e-5)
    norms = [
        [line["gradient_norm"] for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())]
        for run in (tmp_path, alone)
    ]
    np.testing.assert_allclose(*norms, rtol=1e-4)  # before a wrong one has changed a loss


def test_a_run_that_is_killed_is_started_again_and_ends_as_if_nothing_were(alone, tmp_path):
    words = [ROOT / "launch" / "supervise.sh", *TRAIN, "--workdir", str(tmp_path)]
    script = subprocess.Popen(words, env=os.environ | {"PAUSE": "0"}, stdout=subprocess.PIPE, text=True)
    until((tmp_path / "checkpoints" / "5").exists)
    trainer = Path(f"/proc/{script.pid}/task/{script.pid}/children").read_text().split()[0]
    os.kill(int(trainer), signal.SIGKILL)
    assert "resuming from step 5" in script.communicate(timeout=100)[0]
    assert script.returncode == 0
    assert losses(tmp_path) == losses(alone)
    assert '"event": "started_again", "status": 137, "checkpoint": 5' in (tmp_path / "events.jsonl").read_text()


@pytest.mark.parametrize("ending", ["Ctrl-C", "a process that dies", "a process that stops"])
def test_all_local_processes_end_when_one_does(ending, tmp_path):
    """Within a minute, and with the step saved where it was asked to stop."""
    script = subprocess.Popen(
        [*HEARING, ROOT / "launch" / "local.sh", "2", *TRAIN, *LONG, "--workdir", str(tmp_path)],
        env=os.environ | {"PATIENCE": "10"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    until(lambda: (tmp_path / "metrics.jsonl").exists() and losses(tmp_path))
    start, children = time.monotonic(), Path(f"/proc/{script.pid}/task/{script.pid}/children").read_text().split()
    if ending == "Ctrl-C":
        script.send_signal(signal.SIGINT)
    else:
        os.kill(int(children[1]), signal.SIGKILL if ending == "a process that dies" else signal.SIGSTOP)
    said = script.communicate(timeout=100)[0]
    assert time.monotonic() - start < 60, said
    assert script.returncode == {"Ctrl-C": 130, "a process that dies": 137, "a process that stops": 134}[ending], said
    if ending == "a process that stops":  # its number, its host, and where the other one stood
        host = socket.gethostname()
        assert f"processes: 0 on {host}, 1 on {host}" in said
        assert re.search(r"stopped sending heartbeats\):\s+1\s", said)
        assert "training/attempt.py" in said
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    assert bool(list((tmp_path / "checkpoints").glob("[0-9]*"))) == (ending == "Ctrl-C"), said


def test_two_processes_started_by_ssh_go_on_with_the_run_of_one(alone, ssh, tmp_path):
    shutil.copytree(alone, tmp_path / "run")
    forget_the_end(tmp_path / "run")
    (tmp_path / "hosts").write_text("127.0.0.1\n127.0.0.1\n")
    launch("ssh.sh", str(tmp_path / "hosts"), *TRAIN, "--workdir", str(tmp_path / "run"),
           SSH_OPTIONS=ssh, PORT=str(free_port()))  # fmt: skip
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(alone), rtol=1e-5)


def test_a_job_that_is_told_to_stop_saves_goes_back_into_the_queue_and_ends_as_if_nothing_were(slurm, tmp_path):
    """SLURM warns the job's script; what comes again waits first (two minutes; here `cred_expire`, half of one)."""
    variables = os.environ | slurm | {"PROCESSES": "2", "PYTHON": sys.executable, "JAX_NUM_CPU_DEVICES": "1"}
    flags = [*FLAGS, "--config.train.steps=30", "--workdir", str(tmp_path / "run")]
    words = ["sbatch", "--parsable", "--ntasks=2", f"--output={tmp_path}/log", "launch/slurm.sh", *flags]
    job = subprocess.run(words, cwd=ROOT, env=variables, capture_output=True, text=True, check=True).stdout.strip()
    log = tmp_path / "log"
    until(lambda: (tmp_path / "run" / "metrics.jsonl").exists() and len(losses(tmp_path / "run")) >= 3)
    subprocess.run(["scancel", "--batch", "--signal=USR1", job], env=variables, check=True)
    try:
        until(lambda: "requeueing the job" in log.read_text())
        until(lambda: "step 30/30" in log.read_text(), seconds=300)
    except AssertionError:
        said = Path(slurm["SLURM_CONF"]).with_name("control.log")
        pytest.fail(f"the job did not end\n{log.read_text()}\n{said.read_text()[-5000:]}")
    saved = int(re.search(r"Stopped and saved at step (\d+)", log.read_text())[1])
    assert f"resuming from step {saved}\n" in log.read_text()
    launch("local.sh", "2", *TRAIN, *flags[len(FLAGS) : -2], "--workdir", str(tmp_path / "plain"))
    assert losses(tmp_path / "run") == losses(tmp_path / "plain")


def test_a_job_of_two_processes_trains_as_one(alone, slurm, tmp_path):
    variables = slurm | {"PROCESSES": "2", "PYTHON": sys.executable, "JAX_NUM_CPU_DEVICES": "1"}
    words = ["sbatch", "--wait", "--ntasks=2", f"--output={tmp_path}/log", "launch/slurm.sh", *FLAGS,
             "--workdir", str(tmp_path / "run")]  # fmt: skip
    done = subprocess.run(words, cwd=ROOT, env=os.environ | variables, timeout=300, check=False)
    assert done.returncode == 0, (tmp_path / "log").read_text()
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(alone), rtol=1e-5)


def test_the_jobs_of_an_array_share_the_runs_of_a_study(slurm, tmp_path):
    variables = slurm | {"PROCESSES": "1", "PYTHON": sys.executable, "MODULE": "rankclip_jax.study"}
    words = ["sbatch", "--wait", "--array=0-1", "--ntasks=1", f"--output={tmp_path}/log-%a", "launch/slurm.sh",
             "--config", "tests/studies/small_study.py", "--workdir", str(tmp_path / "study")]  # fmt: skip
    done = subprocess.run(words, cwd=ROOT, env=os.environ | variables, timeout=600, check=False)
    said = [(tmp_path / f"log-{number}").read_text() for number in (0, 1)]
    assert done.returncode == 0, said
    runs = [json.loads(line)["run"] for line in (tmp_path / "study" / "results.jsonl").read_text().splitlines()]
    assert len(runs) == len(set(runs)) == 5
    assert sum(text.count("ended with status") for text in said) == 0
