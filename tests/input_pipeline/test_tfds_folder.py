"""A dataset's own files select no code: not through any command, nor by any key of its description."""

import json
import shutil
import sys

import numpy as np
import pytest

from rankclip_jax.input_pipeline import array_record, inspect, prepare, tfds_folder
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.evaluation_sets import tfds_split
from rankclip_jax.input_pipeline.evaluation_sets.wording import ClassPrompts
from tests.input_pipeline.test_prepare import run, write_csv

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow Datasets warns of much
_TEXT = "tensorflow_datasets.core.features.text_feature.Text"
_DICT = "tensorflow_datasets.core.features.features_dict.FeaturesDict"
_SEQUENCE = "tensorflow_datasets.core.features.sequence_feature.Sequence"
_MODULE = "evil_module_of_a_dataset"
_EVIL = f"{_MODULE}.Text"
_OLD = json.dumps({"x": {"type": _EVIL, "content": {}}})
_SCALAR = "tensorflow_datasets.core.features.scalar.Scalar"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    run("csv", write_csv(folder / "in", 6), folder / "data", "--shrink", "0")
    return folder / "data"


@pytest.fixture
def evil(prepared, tmp_path, monkeypatch):
    """A copy of the data with a module beside it that would be imported; whether it was."""
    shutil.copytree(prepared, tmp_path / "data")
    (tmp_path / f"{_MODULE}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').write('yes')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "data"
    assert not (tmp_path / "ran").exists()
    assert _MODULE not in sys.modules


def change(folder, edit, name="features.json"):
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(edit(content) or content))


def with_feature(feature):
    """An edit that puts one feature among the dataset's own."""
    return lambda content: content["featuresDict"]["features"].update(extra=feature)


FEATURES = {
    "a class": {"pythonClassName": _EVIL, "text": {}},
    "in a sequence": {"pythonClassName": _SEQUENCE, "sequence": {"feature": {"pythonClassName": _EVIL, "text": {}}}},
    "in a dict": {"pythonClassName": _DICT, "featuresDict": {"features": {"x": {"pythonClassName": _EVIL}}}},
    "the old form": {"type": _EVIL, "content": {}},
    "the old form in words": {"pythonClassName": _DICT, "jsonFeature": {"json": _OLD}},
    "the other spelling": {"python_class_name": _EVIL, "text": {}},
    "both spellings": {"pythonClassName": _TEXT, "python_class_name": _EVIL, "text": {}},
    "a look-alike": {"pythonClassName": f"{_TEXT}.{_EVIL}", "text": {}},
    "a program": {"pythonClassName": "tensorflow_datasets.core.features.video_feature.Video", "video": {}},
    "a type of NumPy's": {"pythonClassName": _SCALAR, "tensor": {"dtype": "M8"}},
    "a list": [],
    "nothing": None,
}  # fmt: skip


@pytest.mark.parametrize("name", FEATURES)
def test_a_class_that_is_not_known_is_refused_by_name_before_anything_is_imported(name, evil):
    change(evil, with_feature(FEATURES[name]))
    with pytest.raises(UserError, match=r"features\.json"):
        tfds_folder.check(evil)


def test_every_command_refuses_it(evil, tmp_path, capsys):
    change(evil, with_feature(FEATURES["a class"]))
    said = rf"features\.json names the class '{_EVIL}' for a feature\. Nothing was imported"
    with pytest.raises(UserError, match=said):
        array_record.open_split(evil, "train", flag="config.data.train")
    with pytest.raises(UserError, match=said):
        tfds_split.open_set(evil, "train", ClassPrompts())
    for command in (
        lambda: inspect.main([str(evil)]),
        lambda: prepare.main(["--source", "tfds", "--input", str(evil), "--output", str(tmp_path / "x")]),
    ):
        with pytest.raises(SystemExit) as stopped:
            command()
        assert stopped.value.code == 2
        assert f"names the class '{_EVIL}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda info: info.update(features={"pythonClassName": _EVIL}), "names the class"),
        (lambda info: info["splits"][0].update(filepathTemplate="../{SPLIT}-{SHARD_X_OF_Y}"), "have no folder"),
        (lambda info: info["splits"][0].update(filepathTemplate="{SPLIT.__class__}"), "have no folder"),
        (lambda info: info["splits"][0].update(name="/etc/x"), "have no folder"),
        (lambda info: info.update(splits=3), "a list of splits"),
        (lambda info: info.update(name="../x"), "a name without a slash"),
    ],
)
def test_the_other_description_names_neither_classes_nor_files_elsewhere(edit, said, evil):
    change(evil, edit, "dataset_info.json")
    with pytest.raises(UserError, match=rf"dataset_info\.json.*{said}"):
        tfds_folder.check(evil)


def test_a_module_that_the_description_names_is_not_imported(evil):
    change(evil, lambda info: info.update(moduleName=_MODULE), "dataset_info.json")
    assert len(array_record.open_split(evil, "train", flag="x")) == 6


def test_usual_features_of_image_datasets_are_read(tmp_path):
    """As TensorFlow Datasets itself writes them."""
    import tensorflow_datasets as tfds

    known = tfds.features
    features = known.FeaturesDict(
        {
            "image": known.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "label": known.ClassLabel(names=["a", "b"]),
            "objects": known.Sequence({"bbox": known.BBoxFeature(), "label": known.ClassLabel(num_classes=3)}),
            "image/filename": known.Text(),
            "captions": known.Sequence(known.Text()),
            "vector": known.Tensor(shape=(4,), dtype=np.float32),
            "number": known.Scalar(dtype=np.int64),
            "flag": np.bool_,
            "mask": known.LabeledImage(labels=3, shape=(None, None, 1)),
        }
    )
    features.save_config(str(tmp_path))
    (tmp_path / "dataset_info.json").write_text("{}")
    tfds_folder.check(tmp_path)
