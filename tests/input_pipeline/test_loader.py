"""Batches: pure functions of (dataset, seed, step), and nothing lost to a bad image."""

import dataclasses
import itertools
import logging

import numpy as np
import pytest
from PIL import Image

from rankclip_jax.input_pipeline import array_record, csv_file, images, loader, prepare, scenes
from rankclip_jax.input_pipeline.augmentation import Augmentation
from rankclip_jax.input_pipeline.errors import UnreadableError, UserError
from rankclip_jax.input_pipeline.source import Mixture
from rankclip_jax.input_pipeline.tokenizers import CLIP
from rankclip_jax.input_pipeline.unreadable import UnreadableTally


def batches(source, count, **changes):
    settings = {
        "image_size": 16, "context_length": 24, "augmentation": Augmentation((0.5, 1.0)), "global_batch_size": 8,
        "seed": 0, "start_step": 0, "threads": 2, "workers": 0,
    }  # fmt: skip
    stream = loader.training_batches(source, **(settings | changes))
    try:
        return list(itertools.islice(stream, count))
    finally:
        stream.close()


@pytest.fixture
def folder(tmp_path):
    """Twenty images of one grey level each, captioned with it; number 3 is truncated, number 7 is missing."""
    rows = ["filepath,title"]
    for level in range(20):
        path = tmp_path / f"{level}.jpg"
        Image.new("RGB", (40 + level, 30), (level * 10,) * 3).save(path)
        rows.append(f"{path.name},level {level}")
    (tmp_path / "3.jpg").write_bytes((tmp_path / "3.jpg").read_bytes()[:300])
    (tmp_path / "7.jpg").unlink()
    (tmp_path / "train.csv").write_text("\n".join(rows))
    return csv_file.read(
        tmp_path / "train.csv", image_key="filepath", caption_key="title", delimiter=",", flag="config.data.train"
    )


def assert_same(first, second):
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])
        np.testing.assert_array_equal(one["text"], other["text"])
        assert one["unreadable"] == other["unreadable"]


@pytest.mark.parametrize("changes", [{"threads": 1}, {"workers": 2}], ids=str)
def test_workers_and_threads_do_not_change_batches(folder, changes):
    assert_same(batches(folder, 5), batches(folder, 5, **changes))


def test_starting_at_a_step_gives_what_running_to_it_does(folder):
    assert_same(batches(folder, 7)[4:], batches(folder, 3, start_step=4))


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_the_rows_of_the_same_global_batches(folder, hosts):
    parts = [batches(folder, 6, process_index=host, process_count=hosts) for host in range(hosts)]
    joined = [
        {
            "image": np.concatenate([part["image"] for part in step]),
            "text": np.concatenate([part["text"] for part in step]),
            "unreadable": [line for part in step for line in part["unreadable"]],
        }
        for step in zip(*parts, strict=True)
    ]
    assert_same(joined, batches(folder, 6))


def test_an_epoch_shows_each_record_once_in_a_new_order():
    source = scenes.Scenes("train", 24, 16)
    texts = np.concatenate([batch["text"] for batch in batches(source, 6)])
    first, second = (sorted(map(tuple, part)) for part in (texts[:24], texts[24:]))
    assert first == second
    assert not np.array_equal(texts[:24], texts[24:])


def test_an_unreadable_image_is_replaced_and_named(folder):
    seen = batches(folder, 10)
    lines = {line.split(":")[0].rsplit("/", 1)[-1] for batch in seen for line in batch["unreadable"]}
    assert lines == {"3.jpg", "7.jpg"}
    for batch in seen:
        for pixels, text in zip(batch["image"], batch["text"], strict=True):
            level = round(pixels.mean() / 10)
            assert level not in (3, 7)
            assert (text == CLIP([f"level {level}"], 24)[0]).all()


def test_too_large_a_share_of_unreadable_images_stops_with_their_names(folder, caplog):
    tally = UnreadableTally(max_share=0.05, dataset_size=len(folder))
    unreadable = [line for batch in batches(folder, 10) for line in batch["unreadable"]]
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(UserError, match=r"more than 5\.00%: .*3\.jpg.*7\.jpg"),
    ):
        tally.add(unreadable, 80)
    assert sum("3.jpg" in record.message for record in caplog.records) <= 1


def test_a_small_share_only_counts(folder):
    tally = UnreadableTally(max_share=0.5, dataset_size=len(folder))
    for batch in batches(folder, 5):
        tally.add(batch["unreadable"], 8)
    assert tally.count == sum(len(batch["unreadable"]) for batch in batches(folder, 5)) > 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TensorFlow Datasets' own
def test_a_damaged_record_is_replaced_and_counted_on_every_host_alike(tmp_path):
    """One in a hundred records has its stored bytes changed, so that reading or decoding it fails."""
    source = prepared_source(tmp_path, 400)
    (shard,) = (tmp_path / "data").glob("*array_record*")
    content = bytearray(shard.read_bytes())
    for number in range(0, 400, 100):
        place = content.index(f"picture {number} of many".encode())
        content[place - 40 : place + 3] = b"\xff" * 43
    shard.write_bytes(content)
    source = array_record.open_split(tmp_path / "data", "train", flag="config.data.train")
    whole = batches(source, 100)
    split = [batches(source, 100, process_index=host, process_count=2) for host in range(2)]
    assert sum(len(batch["unreadable"]) for batch in whole) >= 8  # four in each of two epochs, and by chance more
    assert sum(len(batch["unreadable"]) for part in split for batch in part) == sum(
        len(batch["unreadable"]) for batch in whole
    )
    named = {line.split(":")[0] for batch in whole for line in batch["unreadable"]}
    assert named == {f"record {number}" for number in range(0, 400, 100)}
    for batch in whole:
        assert batch["image"].shape == (8, 16, 16, 3)


def prepared_source(folder, count):
    rows = ["filepath,title"]
    for number in range(count):
        Image.new("RGB", (20, 20), (number % 256, 0, 0)).save(folder / f"{number}.png")
        rows.append(f"{number}.png,picture {number} of many")
    (folder / "list.csv").write_text("\n".join(rows))
    words = ["--source", "csv", "--input", folder / "list.csv", "--output", folder / "data", "--workers", "1"]
    prepare.main([str(word) for word in words])
    return array_record.open_split(folder / "data", "train", flag="config.data.train")


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Records that hold their own number, and several captions."""

    size: int
    first: int = 0

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        number = self.first + index
        pixels = np.full((16, 16, 3), [number % 256, number // 256, 0], np.uint8)
        return {"image": pixels, "text": [f"first {number}", f"second {number}"]}


def numbers_in(batch):
    return batch["image"][:, 0, 0, 0].astype(int) + 256 * batch["image"][:, 0, 0, 1].astype(int)


@pytest.mark.parametrize(
    "settings",
    [
        {"flip": 1.0},
        {"color_jitter": (0.4, 0.0, 0.0, 0.0)},
        {"auto_augment": "rand_augment"},
        {"crop_scale": (0.2, 0.3)},
    ],
    ids=str,
)
def test_images_in_memory_are_augmented_as_those_in_files_are(settings):
    """Each setting changes most of the views; without any they stay as they are."""
    source = scenes.Scenes("train", 24, 16)
    plain = Augmentation(crop="center")
    as_they_are = np.concatenate([batch["image"] for batch in batches(source, 3, augmentation=plain)])
    changed = Augmentation(**({"crop": "center"} if "crop_scale" not in settings else {}), **settings)
    views = np.concatenate([batch["image"] for batch in batches(source, 3, augmentation=changed)])
    drawn = {bytes(source[number]["image"]) for number in range(24)}
    assert {bytes(view) for view in as_they_are} == drawn
    assert sum(bytes(view) not in drawn for view in views) > 18
    if settings == {"flip": 1.0}:
        assert {bytes(np.ascontiguousarray(view[:, ::-1])) for view in views} == drawn


def test_images_of_which_none_can_be_read_are_found_before_anything_else(folder, tmp_path):
    loader.check_readable(folder, "config.data.train")
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "list.csv").write_text("filepath,title\n" + "\n".join(f"{n}.jpg,x" for n in range(40)))
    gone = csv_file.read(tmp_path / "gone" / "list.csv", image_key="filepath", caption_key="title", delimiter=",",
                         flag="config.data.train")  # fmt: skip
    with pytest.raises(UserError, match=r"config\.data\.train: none of 16 probed images can be read: .*gone/0\.jpg"):
        loader.check_readable(gone, "config.data.train")


def test_a_mixture_is_drawn_by_its_weights_and_each_part_goes_round_in_turn():
    mixture = Mixture((Numbers(100), Numbers(300, first=1000)), (3.0, 1.0))
    drawn = np.concatenate([numbers_in(batch) for batch in batches(mixture, 100)])
    of_first = drawn[drawn < 1000]
    assert len(of_first) == pytest.approx(600, abs=2)
    assert sorted(of_first[:100]) == list(range(100))
    assert len(set(drawn[drawn >= 1000])) == 200
    assert_same(batches(mixture, 5)[3:], batches(mixture, 2, start_step=3))
    assert len(mixture) == 400
    assert mixture[99]["text"][0] == "first 99"
    assert mixture[100]["text"][0] == "first 1000"


def test_one_of_several_captions_is_drawn_anew_every_epoch():
    seen = {}
    for batch in batches(Numbers(8), 12):
        for number, ids in zip(numbers_in(batch), batch["text"], strict=True):
            seen.setdefault(int(number), set()).add(tuple(ids))
    assert all(len(captions) == 2 for captions in seen.values())


@pytest.mark.parametrize(("hosts", "workers"), [(1, 4), (2, 0), (2, 2), (4, 0), (4, 1)])
def test_three_epochs_are_the_same_for_any_number_of_hosts_and_workers(hosts, workers):
    """40 records and batches of 8: three epochs are 15 steps."""
    expected = np.stack([numbers_in(batch) for batch in batches(Numbers(40), 15)])
    settings = {"process_count": hosts, "workers": workers}
    parts = [batches(Numbers(40), 15, process_index=host, **settings) for host in range(hosts)]
    found = np.stack([np.concatenate([numbers_in(part) for part in step]) for step in zip(*parts, strict=True)])
    np.testing.assert_array_equal(found, expected)
    for epoch in expected.reshape(3, 40):
        assert sorted(epoch) == list(range(40))


def test_workers_are_chosen_from_the_cores(monkeypatch):
    monkeypatch.setattr(loader.os, "sched_getaffinity", lambda _: set(range(16)))
    assert [loader.worker_count(asked) for asked in (0, 3, -1)] == [0, 3, 14]
    monkeypatch.setattr(loader.os, "sched_getaffinity", lambda _: {0})
    assert loader.worker_count(-1) == 0


def test_evaluation_batches_go_once_through_in_order(folder):
    for workers in (0, 2):
        got = list(loader.evaluation_batches(folder, image_size=16, batch_size=8, size=20, workers=workers))
        index = np.concatenate([batch["index"] for batch in got])
        there = [number for number in range(20) if number not in (3, 7)]
        assert index.tolist() == [*range(20), -1, -1, -1, -1]
        readable = np.concatenate([batch["readable"] for batch in got])
        assert np.flatnonzero(readable).tolist() == there
        levels = np.concatenate([batch["image"] for batch in got]).mean((1, 2, 3))
        np.testing.assert_allclose(levels[there], np.asarray(there) * 10, atol=2)
        captions = [texts for batch in got for texts in batch["captions"]]
        assert captions == [*([f"level {number}"] for number in range(20)), [], [], [], []]  # of unreadable ones too


def test_the_evaluation_view_is_the_centre_of_the_resized_image():
    gradient = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (32, 1))
    view = images.evaluation_view(Image.fromarray(gradient).convert("RGB"), 16)
    assert view.shape == (16, 16, 3)
    assert view.mean() == pytest.approx(127.5, abs=2)
    assert view[0, 0, 0] == pytest.approx(255 / 4, abs=6)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n"], ids=["empty", "text", "header"])
def test_bytes_that_are_no_image_are_unreadable(content):
    with pytest.raises(UnreadableError):
        images.decode(content)


def test_a_decompression_bomb_is_unreadable(tmp_path):
    path = tmp_path / "bomb.png"
    Image.new("1", (20_000, 10_000)).save(path)
    with pytest.raises(UnreadableError, match="bomb"):
        images.decode(path)
