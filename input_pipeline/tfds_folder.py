"""Opens folders of TensorFlow Datasets safely: nothing in them can choose code to import.

A dataset's ``features.json`` names a Python class for each feature, whose module TensorFlow Datasets imports. So this
module first checks that the description has only the features of image datasets.
"""

import re
from pathlib import Path
from typing import Any

from . import files
from .errors import UserError
from .files import printable

_MODULES = "tensorflow_datasets.core.features."
# The allowed classes of features, each with the one key that may describe it. Audio and video are excluded, since
# another program decodes them.
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
_PLACES = {
    "DATASET",
    "SPLIT",
    "FILEFORMAT",
    "SHARD_INDEX",
    "NUM_SHARDS",
    "SHARD_X_OF_Y",
}  # placeholders in a file's name
_MAX_DEPTH = 16  # levels of nested features


def open_builder(folder: Path) -> Any:
    """Opens the dataset in a folder as a TensorFlow Datasets builder.

    Raises:
      UserError: its description has a class, a dtype or a file that is not allowed.
      Exception: any error of TensorFlow Datasets on a damaged description.
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
            raise UserError(
                f"{where}: expected a split whose name and files have no folder; found {printable(split)}. Prepare the "
                "dataset again."
            )
    if re.search(r"[/\\\0]", str(info.get("name", ""))):
        raise UserError(f"{where}: expected a name without a slash; found {printable(info['name'])}.")


def _check_feature(feature: Any, where: str, depth: int) -> None:
    if not isinstance(feature, dict) or depth > _MAX_DEPTH:
        raise UserError(
            f"{where}: expected features as TensorFlow Datasets writes them; found {printable(feature, 80)}."
        )
    name = feature.get("pythonClassName")
    if not isinstance(name, str) or name not in _CLASSES:
        allowed = ", ".join(sorted({word.rsplit(".", 1)[1] for word in _CLASSES}))
        raise UserError(
            f"{where} names the class {printable(name or feature.get('type'), 100)!r} for a feature. Nothing was "
            f"imported: data must not choose code. Prepare the dataset again; choose its features from {allowed} of "
            "TensorFlow Datasets."
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
