"""The data of a run: damaged within limits, and the same as when the run was begun."""

import json
import shutil

import pytest

from rankclip_jax.input_pipeline import inspect, prepare
from rankclip_jax.input_pipeline.errors import UnreadableError, UserError
from rankclip_jax.input_pipeline.loader import name_of_record
from rankclip_jax.input_pipeline.preparation import manifest
from rankclip_jax.training import data, loop
from tests.input_pipeline.test_prepare import jpeg, run, write_csv
from tests.training.conftest import read_metrics, small, train_small

pytestmark = pytest.mark.filterwarnings("ignore:.*")  # TensorFlow Datasets warns of much


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Eight shards of five records."""
    folder = tmp_path_factory.mktemp("original")
    return prepare_both(write_csv(folder / "in", 40), folder / "data", "--shrink", "0")


@pytest.fixture
def prepared(original, tmp_path):
    shutil.copytree(original, tmp_path / "data")
    return tmp_path / "data"


def prepare_both(path, output, *options):
    for split in ("train", "validation"):
        run("csv", path, output, "--split", split, "--shard_size", "5", *options)
    return output


def shards(folder):
    return [folder / shard["file"] for shard in manifest.read(folder)["splits"]["train"]["shards"]]


def settings(path, **changes):
    return small(
        data__source="array_record", data__train=str(path), data__workers=0, train__steps=3, **changes
    )  # fmt: skip


def truncate(folder):
    path = shards(folder)[2]
    path.write_bytes(path.read_bytes()[:-2000])


def copy_over(folder):
    shutil.copy(shards(folder)[5], shards(folder)[2])


def same_size(folder):
    """Of one size, with as many records: only their content tells them apart."""
    names = ["--shard_size", "5", "--shrink", "0", "--split", "other"]
    path = write_csv(folder.parent / "in", 5)
    for number in range(5):
        (path.parent / f"{number}.jpg").write_bytes(jpeg(number + 10) + b"x")
    (folder.parent / "other").mkdir()
    prepare.main(
        ["--source", "csv", "--input", str(path), "--output", str(folder.parent / "other"), "--workers", "1", *names]
    )
    (other,) = (folder.parent / "other").glob("*array_record*")
    assert other.stat().st_size == shards(folder)[2].stat().st_size
    shutil.copy(other, shards(folder)[2])


def remove(folder):
    shards(folder)[2].unlink()


def unfold(folder):
    shards(folder)[2].unlink()
    shards(folder)[2].mkdir()


def flip(folder, place):
    path = shards(folder)[2]
    content = bytearray(path.read_bytes())
    content[place] ^= 255
    path.write_bytes(content)


def zeros(folder):
    path = shards(folder)[2]
    path.write_bytes(bytes(path.stat().st_size))


def end(folder):
    """Where the file says how many records it has."""
    flip(folder, -65_500)


DAMAGES = [truncate, copy_over, same_size, remove, unfold, zeros, end]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_shard_that_is_not_what_was_prepared_is_noticed_when_the_data_are_opened(damage, prepared, caplog):
    damage(prepared)
    name = shards(prepared)[2].name
    with pytest.raises(UserError, match=rf"config\.data\.train: 5 of 40 records are in damaged shards: .*{name}"):
        data.open_data(settings(prepared))
    source, _ = data.open_data(settings(prepared, data__max_unreadable_fraction=0.5))
    assert f"{name}" in caplog.text
    assert "skipping its records 10 to 14" in caplog.text
    readable = [index for index in range(40) if index not in range(10, 15)]
    assert [source[index]["text"] for index in readable] == [[f"picture {index}"] for index in readable]
    assert len(inspect.find_damaged(prepared, manifest.read(prepared))) == 1


def test_training_goes_on_without_the_records_of_a_damaged_shard(prepared, tmp_path, mesh_of):
    truncate(prepared)
    loop.train(settings(prepared, data__max_unreadable_fraction=0.5), tmp_path / "run", mesh=mesh_of(1))
    assert len([row for row in read_metrics(tmp_path / "run") if "loss" in row]) == 3


@pytest.mark.parametrize("place", [100, 200, 5000, 9000, -1])
def test_damaged_bytes_cost_the_records_that_they_are_of_and_end_nothing(place, prepared):
    flip(prepared, place)
    source, _ = data.open_data(settings(prepared))
    assert not source.damaged
    data.shared_facts(settings(prepared), source)  # reads no record
    lost = []
    for index in range(40):
        try:
            assert source[index]["text"] == [f"picture {index}"]
        except UnreadableError:
            lost.append(index)
            assert name_of_record(source, index) == f"record {index}"
    assert set(lost) <= set(range(10, 15))
    assert lost or place == -1  # padding
    if place in (5000, 9000):
        assert len(lost) == 1


# ---- the identity of the data


def table(folder, rows, **changes):
    path = write_csv(folder, max(rows) + 1)
    lines = [f"{row}.jpg,{changes.get('caption', 'picture')} {row}" for row in rows]
    path.write_text("\n".join(["filepath,title", *lines]) + "\n")
    return path


CHANGES = {
    "fewer rows": (lambda folder: table(folder, range(35)), "records: 40 before, 35 now"),
    "other captions": (lambda folder: table(folder, range(40), caption="another"), "captions differ"),
    "another order": (lambda folder: table(folder, range(39, -1, -1)), "image names differ; captions differ"),
    "other images": (
        lambda folder: (folder / "list.csv").write_text((folder / "list.csv").read_text().replace("3.jpg", "4.jpg")),
        "image names differ",
    ),
}


def csv_settings(path, steps):
    return {
        "data__source": "csv", "data__train": str(path), "data__validation": "", "data__workers": 0,
        "train__steps": steps, "checkpoint__every_steps": 2, "optimizer__schedule": "constant",
    }  # fmt: skip


def test_a_run_does_not_go_on_with_other_data_unless_it_is_told_to(tmp_path):
    path = table(tmp_path / "in", range(40))
    train_small(tmp_path / "run", **csv_settings(path, 2))
    for change, said in CHANGES.values():
        table(tmp_path / "in", range(40))
        change(tmp_path / "in")
        with pytest.raises(UserError, match=rf"different data than config\.data\.train has now: .*{said}.*remove "):
            train_small(tmp_path / "run", **csv_settings(path, 4))
    table(tmp_path / "in", range(35))
    (tmp_path / "run" / data.NAME).unlink()
    assert train_small(tmp_path / "run", **csv_settings(path, 4)).finished
    assert json.loads((tmp_path / "run" / data.NAME).read_text())[0]["records"] == 35


def test_data_that_moved_or_whose_images_were_mended_are_the_same(tmp_path, capsys):
    first, second = table(tmp_path / "a", range(40)), table(tmp_path / "b", range(40))
    source, _ = data.open_data(small(**csv_settings(first, 2)))
    (tmp_path / "run").mkdir()
    data.write_identity(tmp_path / "run", source)
    moved, _ = data.open_data(small(**csv_settings(second, 2)))
    data.check_unchanged(tmp_path / "run", moved)
    assert capsys.readouterr().out == ""
    (tmp_path / "b" / "7.jpg").write_bytes(jpeg(7, 50, 50))
    data.check_unchanged(tmp_path / "run", moved)
    assert "training data have changed since the run started: image sizes differ" in capsys.readouterr().out


def test_data_that_were_prepared_anew_with_other_options_are_other_data(original, tmp_path):
    source, _ = data.open_data(settings(original))
    data.write_identity(tmp_path, source)
    data.check_unchanged(tmp_path, data.open_data(settings(original))[0])
    prepare_both(original.parent / "in" / "list.csv", tmp_path / "again", "--shrink", "24")
    with pytest.raises(UserError, match="shards differ"):
        data.check_unchanged(tmp_path, data.open_data(settings(tmp_path / "again"))[0])
