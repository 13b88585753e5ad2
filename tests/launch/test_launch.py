"""The launchers: what they start and with which variables, how they end, and that others can read what they write."""

import concurrent.futures
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.launch import random_signals
from tests.training.conftest import SMALL_FLAGS

ROOT = Path(__file__).parent.parent.parent
SCRIPTS = sorted(path.name for path in (ROOT / "launch").glob("*.sh"))
# A shell cannot hear a signal that it was started to ignore, as one in the background is.
HEARING = ["env", "--default-signal=HUP,INT,QUIT"]
TRAIN = ["python", "-m", "rankclip_jax.train", "--config", "configs/cc3m.py"]


def launch(script, *words, check=True, **variables):
    done = subprocess.run(
        [ROOT / "launch" / script, *words],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def test_scripts_are_without_known_mistakes():
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if not shellcheck:
        pytest.skip("shellcheck is not installed")
    subprocess.run([shellcheck, "-x", *(f"launch/{name}" for name in SCRIPTS)], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("script", "words", "variables", "expected"),
    [
        ("local.sh", ["2", *TRAIN], {}, ["JAX_NUM_PROCESSES=2 JAX_PROCESS_ID=1 python -m rankclip_jax.train"]),
        ("supervise.sh", [*TRAIN, "--workdir=a b"], {}, ["--config configs/cc3m.py --workdir=a\\ b"]),
        ("tpu-vm.sh", ["pod", *TRAIN], {"ZONE": "z"}, ["ssh pod --zone=z --worker=all", "rankclip_jax.train"]),
        (
            "slurm.sh",
            TRAIN[3:],
            {"SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "8"},
            ["srun --kill-on-bad-exit=1 --ntasks-per-node=8 --ntasks=16", "--config configs/cc3m.py"],
        ),
        (
            "slurm.sh",
            TRAIN[3:],
            {"SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "8", "PROCESSES": "1"},
            ["--ntasks-per-node=1 --ntasks=2"],
        ),
        (
            "slurm.sh",
            ["--config", "configs/studies/cc3m.py"],
            {"MODULE": "rankclip_jax.study", "SLURM_ARRAY_TASK_ID": "3"},
            ["--ntasks-per-node=1 --ntasks=1", "-m rankclip_jax.study --config configs/studies/cc3m.py"],
        ),
    ],
)
def test_the_dry_form_prints_what_would_run(script, words, variables, expected):
    printed = launch(script, *words, DRY_RUN="1", **variables).stdout
    for part in expected:
        assert part in printed


def test_the_dry_form_of_ssh_names_each_host_and_its_number(tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text("# ours\nuser@one\n\ntwo\n")
    lines = launch("ssh.sh", str(hosts), *TRAIN, DRY_RUN="1").stdout.splitlines()
    assert [("user@one" in line, "two" in line) for line in lines] == [(True, False), (False, True)]
    for number, line in enumerate(lines):
        plain = line.replace("\\", "")
        assert "RANKCLIP_JAX_TOKEN=SECRET" in plain
        assert f"JAX_COORDINATOR_ADDRESS=one:8476 JAX_NUM_PROCESSES=2 JAX_PROCESS_ID={number} python -m" in plain


@pytest.mark.parametrize(
    ("script", "words", "said"),
    [
        ("local.sh", [], "found ''"),
        ("local.sh", ["two", "true"], "found 'two'"),
        ("local.sh", ["2"], "no command"),
        ("local.sh", ["9" * 20, "true"], "found '99999"),
        ("ssh.sh", ["nowhere.txt", "true"], "no file of hosts at 'nowhere.txt'"),
        ("ssh.sh", ["/dev/null", "true"], "names no host"),
        ("supervise.sh", [], "no command"),
        ("supervise.sh", ["true"], "no --workdir"),
        ("slurm.sh", [], "no flags"),
        ("tpu-vm.sh", ["pod", "true"], "ZONE: not set"),
        ("kubernetes.sh", ["cpu"], "expected gpu or tpu first; found 'cpu'"),
        ("kubernetes.sh", ["gpu", "2", "8", "--", "--config", "demo"], "IMAGE: not set"),
        ("kubernetes.sh", ["gpu", "2", "8"], "no flags"),
    ],
)
def test_a_mistake_is_said_in_one_line(script, words, said):
    done = launch(script, *words, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("words", [["gpu", "4", "8"], ["tpu", "tpu-v5-lite-podslice", "16x16", "2"]])
def test_the_manifest_is_a_jobset(words):
    """As the models of Kubeflow Trainer, made from the JobSet's schema, read it: nothing is unknown to them."""
    models = pytest.importorskip("kubeflow_trainer_api.models")
    text = launch("kubernetes.sh", *words, "--", "--config", "it's", "--workdir", "a b", IMAGE="registry/image").stdout
    found = yaml.safe_load(text)
    read = models.JobsetV1alpha2JobSet.from_dict(found).to_dict()
    assert not list(unread(found, read))
    job = found["spec"]["replicatedJobs"][0]["template"]["spec"]
    container = job["template"]["spec"]["containers"][0]
    assert container["args"] == ["--config", "it's", "--workdir", "a b"]
    if words[0] == "gpu":
        variables = {one["name"]: one.get("value") for one in container["env"]}
        assert variables["JAX_COORDINATOR_ADDRESS"] == "rankclip-workers-0-0.rankclip:8476"
        assert int(variables["JAX_NUM_PROCESSES"]) == job["completions"] == job["parallelism"] == 4
    else:
        assert (job["completions"], container["resources"]["limits"]) == (64, {"google.com/tpu": 4})


def unread(written, read, path=""):
    """What a manifest holds that its reader did not take."""
    if isinstance(written, dict):
        for key, value in written.items():
            if key not in read:
                yield f"{path}.{key}"
            else:
                yield from unread(value, read[key], f"{path}.{key}")
    elif isinstance(written, list):
        for number, pair in enumerate(zip(written, read, strict=True)):
            yield from unread(*pair, f"{path}[{number}]")


def test_skypilots_task_has_the_keys_that_it_knows():
    task = yaml.safe_load((ROOT / "launch" / "skypilot.yaml").read_text())
    assert set(task) <= {"name", "num_nodes", "resources", "envs", "workdir", "file_mounts", "setup", "run"}
    assert "rankclip_jax.train ${FLAGS}" in task["run"]
    assert task["envs"]["IMAGE"] == ""


def test_skypilots_task_runs_in_the_image_that_is_named(tmp_path):
    """With a docker that prints its arguments."""
    (tmp_path / "docker").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "docker").chmod(0o755)
    task = yaml.safe_load((ROOT / "launch" / "skypilot.yaml").read_text())
    given = {"IMAGE": "registry/image", "FLAGS": "--config demo", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for script, expected in (("setup", "pull registry/image\n"), ("run", " registry/image train --config demo\n")):
        done = subprocess.run(
            ["bash", "-c", task[script]],
            env=os.environ | given,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.endswith(expected)
    assert all(f"--env SKYPILOT_{name}" in done.stdout for name in ("NODE_IPS", "NODE_RANK", "NUM_NODES"))


def test_the_image_is_built_from_files_that_are_there():
    """What the Dockerfile copies by name is in the repository, and not left out by .dockerignore."""
    copied = [word for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("COPY ")
              and "--from" not in line for word in line.split()[1:-1]]  # fmt: skip
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert "requirements.txt" in copied
    assert all((ROOT / name).exists() for name in copied)
    assert all(list(ROOT.glob(name)) for name in kept)
    assert all(name == "." or any(Path(name).match(pattern) for pattern in kept) for name in copied)


def test_each_local_process_gets_its_number_and_the_same_address_and_token():
    variables = "$JAX_PROCESS_ID $JAX_NUM_PROCESSES $JAX_COORDINATOR_ADDRESS $RANKCLIP_JAX_TOKEN"
    printed = launch("local.sh", "3", "sh", "-c", f"echo {variables}")
    rows = sorted(line.split() for line in printed.stdout.splitlines())
    assert [row[:2] for row in rows] == [["0", "3"], ["1", "3"], ["2", "3"]]
    assert len({row[2] for row in rows}) == 1
    assert {len(row[3]) for row in rows} == {32}
    assert len({row[3] for row in rows}) == 1


def test_a_local_process_that_fails_ends_the_others():
    start = time.monotonic()
    done = launch("local.sh", "2", "sh", "-c", "[ $JAX_PROCESS_ID = 1 ] && exit 7; exec sleep 200", check=False)
    assert done.returncode == 7
    assert time.monotonic() - start < 100


@pytest.mark.parametrize("number", random_signals.SIGNALS)
def test_a_signal_reaches_each_local_process_once_and_none_is_left(number, tmp_path):
    """USR1 and USR2 as they are, the others as TERM, at which training saves."""
    passed_on = number if number in (signal.SIGUSR1, signal.SIGUSR2) else signal.SIGTERM
    child = (
        "import os, pathlib, signal, sys, time\n"
        "place = pathlib.Path(sys.argv[1], os.environ['JAX_PROCESS_ID'])\n"
        "heard = []\n"
        f"signal.signal({int(passed_on)}, lambda *_: heard.append(1))\n"
        "place.write_text(str(os.getpid()))\n"
        "while not heard: time.sleep(0.05)\n"
        "time.sleep(1)\n"
        "place.with_suffix('.heard').write_text(str(len(heard)))\n"
    )
    script = subprocess.Popen([*HEARING, ROOT / "launch" / "local.sh", "2", sys.executable, "-c", child, tmp_path])
    while not all((tmp_path / name).exists() for name in "01"):
        time.sleep(0.05)
    script.send_signal(number)
    assert script.wait(60) == 128 + number
    assert [(tmp_path / f"{name}.heard").read_text() for name in "01"] == ["1", "1"]
    for name in "01":
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / name).read_text()), 0)


@pytest.mark.parametrize("launcher", random_signals.LAUNCHERS)
def test_signals_at_random_moments_leave_no_process(launcher):
    """Two trials of each launcher; more by hand: python -m tests.launch.random_signals 500."""
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        assert list(threads.map(random_signals.trial, (7, 8), (launcher, launcher))) == [None, None]


def test_what_a_killed_launcher_has_started_is_asked_to_save(tmp_path):
    if subprocess.run(["setpriv", "--pdeathsig", "TERM", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system's setpriv (util-linux) cannot")
    saves = f"trap 'touch {tmp_path}/saved$JAX_PROCESS_ID; exit' TERM"
    child = f"{saves}; touch {tmp_path}/$JAX_PROCESS_ID; while :; do sleep 0.05; done"
    script = subprocess.Popen([ROOT / "launch" / "local.sh", "2", "bash", "-c", child])
    end = time.monotonic() + 30
    while not all((tmp_path / name).exists() for name in "01") and time.monotonic() < end:
        time.sleep(0.05)
    script.kill()
    script.wait(30)
    while not all((tmp_path / f"saved{name}").exists() for name in "01"):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_processes_that_were_given_other_settings_stop_and_name_the_host(tmp_path):
    words = [sys.executable, "-m", "rankclip_jax.train", *SMALL_FLAGS, "--workdir", str(tmp_path / "run")]
    command = 'exec "$@" --config.seed=$JAX_PROCESS_ID'
    done = launch("local.sh", "2", "sh", "-c", command, "sh", *words, check=False, JAX_NUM_CPU_DEVICES="1")
    assert done.returncode == 2
    assert "has config.seed: 1" in done.stderr
    assert "process 1" in done.stderr
    assert not (tmp_path / "run").exists()


def supervise(tmp_path, script):
    """What became of a command that is not a training: its exit status, what was said, and the events."""
    (tmp_path / "checkpoints").mkdir()
    save = "save() { mkdir -p checkpoints/$1; echo 1 > checkpoints/$1/SHA256SUMS; }"
    script = f"{save}; cd {tmp_path}; echo >> attempts; n=$(wc -l < attempts); {script}"
    words = ["bash", "-c", script, "x", "--workdir", tmp_path]
    done = launch("supervise.sh", *map(str, words), check=False, PAUSE="0", FAILURES="2")
    lines = map(json.loads, (tmp_path / "events.jsonl").read_text().splitlines())
    return done, [(line["event"], line["status"], line["checkpoint"]) for line in lines]


def test_what_fails_is_started_again_while_it_gets_on(tmp_path):
    done, events = supervise(tmp_path, "save $((n * 5)); save 99.tmp$n; [ $n = 4 ] || exit 7")
    assert done.returncode == 0
    assert events == [("started_again", 7, 5), ("started_again", 7, 10), ("started_again", 7, 15)]


def test_what_fails_without_a_new_checkpoint_is_given_up(tmp_path):
    done, events = supervise(tmp_path, "save 10; kill -KILL $$")
    assert done.returncode == 137
    assert events == [("started_again", 137, 10), ("given_up", 137, 10)]
    assert "given up at step 10, with status 137" in done.stderr


@pytest.mark.parametrize(
    "made",
    [
        "mkdir checkpoints/$n",
        "touch checkpoints/$n",
        "save 0$n",
        f"save $n{'0' * 19}",
        f"save {'9' * 40}",
        "save ../$n",
    ],
    ids=["an empty folder", "a file", "a leading zero", "20 digits", "40 digits", "elsewhere"],
)
def test_what_is_no_checkpoint_is_no_progress(made, tmp_path):
    done, events = supervise(tmp_path, f"save 7; {made}; exit 5")
    assert (done.returncode, events) == (5, [("started_again", 5, 7), ("given_up", 5, 7)])
    assert "common.sh" not in done.stderr
    assert "supervise.sh" not in done.stderr  # as the shell begins its complaints


@pytest.mark.parametrize(("script", "status"), [("exit 2", 2), ("exec no-such-command", 127)])
def test_what_a_person_must_mend_is_given_up_at_once(script, status, tmp_path):
    done, events = supervise(tmp_path, script)
    assert (done.returncode, events) == (status, [("given_up", status, 0)])


@pytest.mark.parametrize("value", ["few", "9" * 20, "-1", "1.5", "010"])
@pytest.mark.parametrize("name", ["FAILURES", "PAUSE", "PATIENCE", "PORT"])
def test_numbers_of_the_launchers_are_numbers(name, value, tmp_path):
    words = (
        ["supervise.sh", "true", f"--workdir={tmp_path}"]
        if name in ("FAILURES", "PAUSE")
        else ["local.sh", "2", "true"]
    )
    done = launch(*words, check=False, **{name: value})
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"{name}: expected a number" in done.stderr
    assert f"found '{value}'" in done.stderr


@pytest.mark.parametrize("number", random_signals.SIGNALS)
def test_a_signal_goes_to_what_is_supervised_and_ends_it(number, tmp_path):
    script = 'trap "exit 9" INT TERM USR1 USR2; touch "$1/there"; while :; do sleep 0.1; done'
    words = ["bash", "-c", script, "--workdir", tmp_path]  # $0 and $1 of the script
    watching = subprocess.Popen([*HEARING, ROOT / "launch" / "supervise.sh", *words])
    end = time.monotonic() + 30
    while not (tmp_path / "there").exists() and time.monotonic() < end:
        time.sleep(0.05)
    watching.send_signal(number)
    assert watching.wait(30) == 9
    assert not (tmp_path / "events.jsonl").exists()
