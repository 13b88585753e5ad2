"""The data of a run: damaged within limits, and the same as when the run was begun."""

import json
import shutil

import pytest

from rankclip_jax.input_pipeline import array_record, inspect
from rankclip_jax.input_pipeline.errors import UserError
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


def swap(folder):
    """Of one size, with as many records: only their content tells them apart."""
    content = bytearray(shards(folder)[2].read_bytes())
    content[100] ^= 1
    shards(folder)[2].write_bytes(content)


def zeros(folder):
    path = shards(folder)[2]
    path.write_bytes(bytes(path.stat().st_size))


def remove(folder):
    shards(folder)[2].unlink()


def unfold(folder):
    shards(folder)[2].unlink()
    shards(folder)[2].mkdir()


DAMAGES = [truncate, copy_over, swap, zeros, remove, unfold]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_shard_that_is_not_what_was_prepared_is_noticed_when_the_data_are_opened(damage, prepared, caplog):
    damage(prepared)
    name = shards(prepared)[2].name
    with pytest.raises(UserError, match=rf"config\.data\.train: 5 of 40 records are in damaged shards: .*{name}"):
        data.open_data(settings(prepared))
    source, _ = data.open_data(settings(prepared, data__max_unreadable_share=0.5))
    assert f"{name}" in caplog.text
    assert "its records 10 to 14 are not read" in caplog.text
    readable = [index for index in range(40) if index not in range(10, 15)]
    assert [source[index]["text"] for index in readable] == [[f"picture {index}"] for index in readable]
    assert len(inspect.find_damaged(prepared, manifest.read(prepared))) == 1


def test_training_goes_on_without_the_records_of_a_damaged_shard(prepared, tmp_path, mesh_of):
    truncate(prepared)
    loop.train(settings(prepared, data__max_unreadable_share=0.5), tmp_path / "run", mesh_of(1))
    assert len([row for row in read_metrics(tmp_path / "run") if "loss" in row]) == 3


def test_damage_in_the_middle_of_a_shard_costs_its_records_alone(prepared):
    run("csv", write_csv_of(prepared.parent / "long"), prepared.parent / "long_data", "--shrink", "0")
    (path,) = shards(prepared.parent / "long_data")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    source = array_record.open_split(prepared.parent / "long_data", "train", flag="x")
    assert not source.damaged
    data.shared_facts(settings(prepared.parent / "long_data"), source)  # reads no record that could be the damaged one


def write_csv_of(folder):
    path = write_csv(folder, 4)
    for number in range(4):
        (folder / f"{number}.jpg").write_bytes(jpeg(number, 400, 300))
    return path


def test_the_ends_of_a_shard_are_read_and_no_more(original):
    path = shards(original)[0]
    assert manifest.digest_of_ends(path) == manifest.read(original)["splits"]["train"]["shards"][0]["ends"]
    assert manifest._END < 10**6


# ---- the identity of the data


def table(folder, rows, **changes):
    path = write_csv(folder, max(rows) + 1)
    lines = [f"{row}.jpg,{changes.get('caption', 'picture')} {row}" for row in rows]
    path.write_text("\n".join(["filepath,title", *lines]) + "\n")
    return path


CHANGES = {
    "fewer rows": (lambda folder: table(folder, range(35)), "records: 40 there, 35 now"),
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
        with pytest.raises(UserError, match=rf"other data than config\.data\.train has now: .*{said}.*remove "):
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
    assert "training data have changed: image sizes differ" in capsys.readouterr().out


def test_data_that_were_prepared_anew_with_other_options_are_other_data(original, tmp_path):
    source, _ = data.open_data(settings(original))
    data.write_identity(tmp_path, source)
    data.check_unchanged(tmp_path, data.open_data(settings(original))[0])
    prepare_both(original.parent / "in" / "list.csv", tmp_path / "again", "--shrink", "24")
    with pytest.raises(UserError, match="shards differ"):
        data.check_unchanged(tmp_path, data.open_data(settings(tmp_path / "again"))[0])
