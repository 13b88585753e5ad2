"""Folders that TensorFlow Datasets has prepared, opened so that nothing in them can select code.

A dataset's ``features.json`` names a Python class for each feature, and TensorFlow Datasets imports the module that it
says. So the description is read here first, and is to have no other features than those of image datasets.
"""

import re
from pathlib import Path
from typing import Any

from . import files
from .errors import UserError
from .files import printable

_MODULES = "tensorflow_datasets.core.features."
# The class that a feature names, and the one key beside it that may describe it. Audio and video are not among them:
# what decodes them is another program.
_CLASSES = {
    f"{_MODULES}{name}": key
    for name, key in (
        ("features_dict.FeaturesDict", "featuresDict"),
        ("sequence_feature.Sequence", "sequence"),
        ("image_feature.Image", "image"),
        ("labeled_image.LabeledImage", "image"),
        ("text_feature.Text", "text"),
        ("class_label_feature.ClassLabel", "classLabel"),
        ("tensor_feature.Tensor", "tensor"),
        ("feature.Tensor", "tensor"),
        ("scalar.Scalar", "tensor"),
        ("bounding_boxes.BBoxFeature", "boundingBox"),
        ("translation_feature.Translation", "translation"),
    )
}
_COMMON = {"pythonClassName", "description", "valueRange"}
_DTYPES = re.compile(r"bool|string|object|u?int(8|16|32|64)|b?float(16|32|64)")
_PLACES = {"DATASET", "SPLIT", "FILEFORMAT", "SHARD_INDEX", "NUM_SHARDS", "SHARD_X_OF_Y"}  # in a file's name
_DEEPEST = 16  # features in features


def open_builder(folder: Path) -> Any:
    """The dataset in a folder, as TensorFlow Datasets' own object.

    Raises:
      UserError: its description asks for a class, an encoding or a file that it may not.
      Exception: whatever TensorFlow Datasets raises on a description that is damaged.
    """
    check(folder)
    import tensorflow_datasets as tfds  # after the check; importing it takes seconds

    return tfds.builder_from_directory(folder)


def check(folder: Path) -> None:
    """Raises UserError for a description that could select code or name files elsewhere; imports nothing."""
    info = files.read_json(folder / "dataset_info.json")
    features = [(folder / "features.json", files.read_json(folder / "features.json"))]
    if "features" in info:
        features.append((folder / "dataset_info.json", info["features"]))
    for path, feature in features:
        _check_feature(feature, printable(path), 0)
    where = printable(folder / "dataset_info.json")
    for split in _list(info.get("splits", []), where):
        name, template = (
            str(split.get(key, "")) if isinstance(split, dict) else "/" for key in ("name", "filepathTemplate")
        )
        if not set(re.findall(r"\{(.*?)\}", template)) <= _PLACES or re.search(r"[/\\\0]", name + template):
            raise UserError(f"{where}: expected splits in files of this folder; found {printable(split)}.")
    if re.search(r"[/\\\0]", str(info.get("name", ""))):
        raise UserError(f"{where}: expected a name without a slash; found {printable(info['name'])}.")


def _check_feature(feature: Any, where: str, depth: int) -> None:
    if not isinstance(feature, dict) or depth > _DEEPEST:
        raise UserError(
            f"{where}: expected features as TensorFlow Datasets writes them; found {printable(feature, 80)}."
        )
    name = feature.get("pythonClassName")
    if not isinstance(name, str) or name not in _CLASSES:
        known = ", ".join(sorted({word.rsplit(".", 1)[1] for word in _CLASSES}))
        raise UserError(
            f"{where} names the class {printable(name or feature.get('type'), 100)!r} for a feature. Nothing was "
            f"imported: data may not select code. Of TensorFlow Datasets' own features these can be read: {known}. "
            "Prepare the dataset again with these alone."
        )
    key = _CLASSES[name]
    if unknown := sorted(feature.keys() - _COMMON - {key}):
        raise UserError(f"{where}: expected {key!r} beside {name}; found {printable(unknown[0], 100)!r}.")
    content = feature.get(key, {})
    if not isinstance(content, dict) or not _DTYPES.fullmatch(str(content.get("dtype", "string"))):
        raise UserError(f"{where}: expected a known dtype of {name}; found {printable(content, 100)}.")
    if key == "sequence":
        _check_feature(content.get("feature"), where, depth + 1)
    elif key == "featuresDict":
        inner = content.get("features", {})
        for value in inner.values() if isinstance(inner, dict) else [inner]:
            _check_feature(value, where, depth + 1)


def _list(value: Any, where: str) -> list:
    if not isinstance(value, list):
        raise UserError(f"{where}: expected a list of splits; found {printable(value, 80)}.")
    return value
