"""Checkpoints that are not what was saved: found, named, set aside, and the one before used."""

import contextlib
import hashlib
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import types

import jax
import numpy as np
import pytest
from absl import flags
from jax.sharding import AxisType, Mesh

from rankclip_jax.checkpoints import checksums
from rankclip_jax.checkpoints.manager import choose_step, faults_of, set_aside
from rankclip_jax.checkpoints.workdir import saved_steps
from rankclip_jax.cli.entry import EXIT_ON_USER_ERROR
from rankclip_jax.distributed.mesh import AXES
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.training import attempt
from rankclip_jax.training.hooks import checkpointing
from rankclip_jax.training.resumption import newest
from tests.training.conftest import assert_bit_identical, final_state, read_metrics, train_small

LAST = 20


def files_of(workdir, step=LAST):
    return sorted(path for path in (workdir / "checkpoints" / str(step)).rglob("*") if path.is_file())


def flip(path):
    """One bit of the file's first letter that a line or a number may begin with, or of its middle."""
    content = bytearray(path.read_bytes())
    place = len(content) // 2
    content[place] ^= 1
    path.write_bytes(content)


@pytest.fixture
def saved(undisturbed, tmp_path):
    """A finished run of 20 steps, of which 10, 15 and 20 are saved."""
    shutil.copytree(undisturbed, tmp_path / "run")
    return tmp_path / "run"


def test_a_flipped_bit_in_any_file_is_found_and_the_file_named(saved):
    assert faults_of(saved, LAST) == []
    for path in files_of(saved):
        content = path.read_bytes()
        if not content:
            continue
        flip(path)
        faults = faults_of(saved, LAST)
        path.write_bytes(content)
        assert faults, path
        assert any(str(path) in fault for fault in faults) or path.name == "SHA256SUMS", faults
    assert faults_of(saved, LAST) == []


@pytest.mark.parametrize("how", ["cut off", "deleted", "another's"])
def test_a_file_that_is_short_gone_or_new_is_named(how, saved):
    path = max(files_of(saved), key=lambda path: path.stat().st_size)
    if how == "cut off":
        path.write_bytes(path.read_bytes()[:-1])
    elif how == "deleted":
        path.unlink()
    else:
        path = path.with_name("more")
        path.write_bytes(b"x")
    (fault,) = faults_of(saved, LAST)
    assert str(path) in fault


def test_sha256sum_reads_the_digests(saved):
    folder = saved / "checkpoints" / str(LAST)
    subprocess.run(["sha256sum", "--strict", "--quiet", "-c", "SHA256SUMS"], cwd=folder, check=True)
    about = json.loads((folder / "about.json").read_text())
    assert about["versions"]["jax"] == jax.__version__
    assert about["settings"]["train"]["steps"] == LAST


def test_the_one_before_is_used_and_the_run_ends_as_if_nothing_had_been(saved, undisturbed, caplog):
    flip(max(files_of(saved), key=lambda path: path.stat().st_size))
    assert choose_step(saved, None) == 15
    shutil.rmtree(saved / "evaluation")
    train_small(saved, evaluation__every_steps=10, objective__name="rankclip")
    assert "the checkpoint of step 20 is corrupt and not used" in caplog.text
    assert (saved / "set_aside" / "20").is_dir()
    assert_bit_identical(final_state(saved), final_state(undisturbed))


def test_one_of_another_step_or_run_is_not_used(saved):
    newest, before = (saved / "checkpoints" / str(step) for step in (LAST, 15))
    shutil.rmtree(newest)
    shutil.copytree(before, newest)
    assert "about.json: expected step 20; found step 15" in faults_of(saved, LAST)[0]
    path = saved / "config.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    assert "belongs to another run: config.seed: 0 stored, 1 now" in faults_of(saved, 15)[0]


def restate(folder, change):
    """Changes what a checkpoint says of itself, and makes its digests right again, as whoever can write there can."""
    path, sums = folder / "about.json", folder / "SHA256SUMS"
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_text(change(json.loads(path.read_text())))
    sums.write_text(sums.read_text().replace(before, hashlib.sha256(path.read_bytes()).hexdigest()))


def without(name):
    return lambda about: json.dumps({key: value for key, value in about.items() if key != name})


NO_CHECKPOINTS = {
    "without digests": lambda folder: (folder / "SHA256SUMS").unlink(),
    "without about.json": lambda folder: (folder / "about.json").unlink(),
    "without either": lambda folder: [(folder / name).unlink() for name in ("SHA256SUMS", "about.json")],
    "about.json out of the digests": lambda folder: [
        (folder / "about.json").unlink(),
        (folder / "SHA256SUMS").write_text(
            "".join(
                f"{line}\n" for line in (folder / "SHA256SUMS").read_text().splitlines() if "about.json" not in line
            )
        ),
    ],
    "empty": lambda folder: [shutil.rmtree(folder), folder.mkdir()],
    "a file": lambda folder: [shutil.rmtree(folder), folder.write_text("20")],
    "empty digests": lambda folder: (folder / "SHA256SUMS").write_text(""),
    "digests of Latin-1": lambda folder: (folder / "SHA256SUMS").write_bytes(b"\xe9"),
    "step is text": lambda folder: restate(folder, lambda about: json.dumps(about | {"step": "20"})),
    "step is true": lambda folder: restate(folder, lambda about: json.dumps(about | {"step": True})),
    "no step": lambda folder: restate(folder, without("step")),
    "no versions": lambda folder: restate(folder, without("versions")),
    "no settings": lambda folder: restate(folder, without("settings")),
    "empty settings": lambda folder: restate(folder, lambda about: json.dumps(about | {"settings": {}})),
    "settings are a list": lambda folder: restate(folder, lambda about: json.dumps(about | {"settings": [1]})),
    "versions of numbers": lambda folder: restate(folder, lambda about: json.dumps(about | {"versions": {"jax": 1}})),
    "a list": lambda folder: restate(folder, lambda about: "[]"),
    "no JSON": lambda folder: restate(folder, lambda about: "{"),
    "deep JSON": lambda folder: restate(folder, lambda about: '{"a":' * 5000),
    "a pipe among its files": lambda folder: os.mkfifo(folder / "default" / "more"),
    "a pipe for its digests": lambda folder: pipe_at(folder / "SHA256SUMS"),
    "a pipe for about.json": lambda folder: pipe_at(folder / "about.json"),
    "a pipe for an array": lambda folder: pipe_at(
        max(files_of(folder.parents[1]), key=lambda path: path.stat().st_size)
    ),
    "a pipe for the commit's file": lambda folder: pipe_at(folder / "_CHECKPOINT_METADATA"),
    "an endless device for an array": lambda folder: device_at(
        max(files_of(folder.parents[1]), key=lambda path: path.stat().st_size)
    ),
    "a socket among its files": lambda folder: socket_at(folder / "more"),
}


def pipe_at(path):
    path.unlink()
    os.mkfifo(path)


def device_at(path):
    path.unlink()
    path.symlink_to("/dev/zero")


def socket_at(path):
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as made:  # a socket's path must be short
        made.bind(path.name)


@pytest.mark.timeout(60)  # what opens a pipe waits for ever
@pytest.mark.parametrize("change", NO_CHECKPOINTS.values(), ids=NO_CHECKPOINTS)
def test_what_has_no_valid_digests_is_no_checkpoint(change, saved, caplog):
    folder = saved / "checkpoints" / str(LAST)
    change(folder)
    faults = faults_of(saved, LAST)
    assert faults
    assert all(str(folder) in fault for fault in faults), faults
    assert choose_step(saved, None) == 15
    assert str(folder) in caplog.text
    with pytest.raises(UserError, match="the checkpoint of step 20 is corrupt"):
        choose_step(saved, LAST)
    start = newest(saved)
    assert (start.step, start.aside) == (15, ("20",))


@pytest.mark.parametrize(
    "name", ["99", "0030", "030", "20-copy", "20_copy", "copy_30", "new folder", "٣٠", "99999999999999999999"]
)
@pytest.mark.parametrize("is_copy", [False, True], ids=["empty", "a copy"])
def test_folders_that_no_save_has_named_are_never_chosen(name, is_copy, saved, capsys):
    place = saved / "checkpoints" / name
    if is_copy:
        shutil.copytree(saved / "checkpoints" / str(LAST), place)
    else:
        place.mkdir()
    assert choose_step(saved, None) == LAST
    assert newest(saved).aside == (name,)
    status, said = verify(saved, capsys)
    assert status == 1
    assert str(place) in said
    assert said.count("intact, ") == 3
    set_aside(saved, newest(saved).aside)
    assert verify(saved, capsys)[0] == 0
    assert (saved / "set_aside" / name).is_dir()


def verify(workdir, capsys):
    """The command, in this process: its exit status, and what it says."""
    from rankclip_jax import verify as command

    flags.FLAGS.unparse_flags()
    flags.FLAGS(["verify", f"--workdir={workdir}"])
    status = 0
    try:
        with EXIT_ON_USER_ERROR:
            command.main()
    except SystemExit as stopped:
        status = stopped.code
    return status, capsys.readouterr().out


def test_a_run_resumes_beside_folders_that_are_none_of_its_checkpoints(saved, undisturbed):
    shutil.copytree(saved / "checkpoints" / str(LAST), saved / "checkpoints" / "0030")
    for step in (LAST, 99):
        shutil.rmtree(saved / "checkpoints" / str(step), ignore_errors=True)
        (saved / "checkpoints" / str(step)).mkdir()
    train_small(saved, evaluation__every_steps=10, objective__name="rankclip")
    assert sorted(path.name for path in (saved / "set_aside").iterdir()) == ["0030", "20", "99"]
    assert_bit_identical(final_state(saved), final_state(undisturbed))


def test_a_run_whose_only_checkpoint_was_renamed_is_not_begun_anew(saved):
    for step in (10, 15):
        shutil.rmtree(saved / "checkpoints" / str(step))
    (saved / "checkpoints" / str(LAST)).rename(saved / "checkpoints" / "0020")
    with pytest.raises(UserError, match=r"no checkpoint in .* is intact"):
        train_small(saved, evaluation__every_steps=10, objective__name="rankclip")


def test_with_none_left_nothing_is_begun_anew(saved):
    for step in (10, 15, 20):
        flip(max(files_of(saved, step), key=lambda path: path.stat().st_size))
    with pytest.raises(UserError, match=r"no checkpoint in .* is intact"):
        train_small(saved, evaluation__every_steps=10, objective__name="rankclip")


def test_what_holds_a_value_that_is_not_finite_is_never_saved(tmp_path, monkeypatch):
    """Not of the loss or the gradients, which are seen before, but of a moment of the optimiser."""
    from rankclip_jax.checkpoints import manager as checkpoints

    write = checkpoints.Checkpoints.save

    def spoiled(self, state):
        moments = jax.tree.map(lambda x: x, state.optimizer_state)
        leaves, tree = jax.tree.flatten(moments)
        place = next(index for index, leaf in enumerate(leaves) if leaf.ndim > 1)
        leaves[place] = leaves[place].at[0].set(np.inf)
        write(self, state.replace(optimizer_state=jax.tree.unflatten(tree, leaves)))

    monkeypatch.setattr(checkpoints.Checkpoints, "save", spoiled)
    with pytest.raises(
        UserError, match=r"optimizer_state.* hold non-finite values at step 5, so the step is not saved"
    ):
        train_small(tmp_path / "run")
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def full_disk(monkeypatch, times):
    """The first so many saves end in what a full disk raises, in Orbax's own thread."""
    real, left = checksums.write, iter(range(times))

    def write(*arguments):
        if next(left, None) is not None:
            raise OSError(28, "No space left on device")
        real(*arguments)

    monkeypatch.setattr(checksums, "write", write)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_save_that_fails_is_said_and_tried_again_and_training_goes_on(tmp_path, monkeypatch, capsys):
    full_disk(monkeypatch, 2)
    assert train_small(tmp_path / "run").finished
    assert capsys.readouterr().out.count("cannot be written (OSError: [Errno 28] No space left on device)") == 2
    assert saved_steps(tmp_path / "run") == [15, 20]
    assert not list((tmp_path / "run" / "checkpoints").glob("*tmp*"))
    events = [json.loads(line)["event"] for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert events == ["saving_failed"] * 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_after_too_many_the_run_stops_with_what_was_saved_before(tmp_path, monkeypatch):
    train_small(tmp_path / "run", train__steps=10, optimizer__schedule="constant", optimizer__warmup_fraction=0.0)
    full_disk(monkeypatch, 100)
    with pytest.raises(UserError, match="The last good checkpoint is of step 10"):
        train_small(
            tmp_path / "run",
            train__steps=30,
            optimizer__schedule="constant",
            optimizer__warmup_fraction=0.0,
            checkpoint__max_save_failures=2,
        )
    assert faults_of(tmp_path / "run", 10) == []


def test_minutes_save_too_and_every_so_many_steps_stay(tmp_path, monkeypatch):
    minutes = iter(range(1000))
    monkeypatch.setattr(checkpointing, "time", types.SimpleNamespace(monotonic=lambda: 60.0 * next(minutes)))
    train_small(
        tmp_path / "run",
        checkpoint__every_steps=1000,
        checkpoint__every_minutes=3.0,
        checkpoint__keep=1,
        checkpoint__keep_every_steps=6,
    )
    steps = saved_steps(tmp_path / "run")
    assert steps[-1] == LAST
    assert len(steps) > 1
    assert all(step % 6 == 0 for step in steps[:-1])


@pytest.mark.slow
def test_a_run_goes_on_in_any_mesh_and_back(saved, undisturbed):
    """From one device to eight that share one state, to groups of two, to one again."""
    for step in (15, 20):
        shutil.rmtree(saved / "checkpoints" / str(step))
    for steps, shape in ((13, (1, 1, 8)), (16, (2, 2, 2)), (LAST, (1, 1, 1))):
        devices = np.asarray(jax.devices()[: math.prod(shape)]).reshape(shape)
        mesh = Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 3)
        stop_after(saved, steps, mesh)
    found, expected = (
        [line["loss"] for line in read_metrics(workdir) if "loss" in line] for workdir in (saved, undisturbed)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert len(found) == LAST


def stop_after(workdir, steps, mesh):
    """Trains to the step, where SIGTERM comes."""

    real = attempt.LoggingHook.after_step

    def log(self, info):
        real(self, info)
        if info.step == steps < LAST:
            signal.raise_signal(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attempt.LoggingHook, "after_step", log)
        outcome = train_small(workdir, mesh, evaluation__every_steps=10, objective__name="rankclip")
    assert outcome.step == steps
