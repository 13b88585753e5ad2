"""The layouts' names and shapes are those of the libraries, as their own models list them."""

import ast
from pathlib import Path

import jax
import numpy as np
import pytest

from rankclip_jax.interop.weight_map import batch_counters, empty, weight_map
from rankclip_jax.models.clip import Clip, abstract_variables
from rankclip_jax.models.presets import PRESETS

LARGE = {"ViT-L-14", "ViT-L-14-336", "ViT-H-14", "RN50x64"}  # which take a gigabyte or two


@pytest.mark.parametrize(
    ("file", "name"),
    [("keys_openai_ViT-B-32", "ViT-B-32"), ("keys_openai_RN50", "RN50"), ("keys_hf_ViT-B-32", "ViT-B-32")],
)
def test_names_and_shapes_are_the_librarys(file, name):
    lines = (Path(__file__).parent / f"{file}.txt").read_text().splitlines()
    expected = {key: ast.literal_eval(shape) for key, shape, _ in (line.split("\t") for line in lines)}
    preset = PRESETS[name]
    places = weight_map(preset, "hugging_face" if "hf" in file else "open_clip")
    arrays = empty(abstract_variables(Clip(preset)))
    ours = {place.name: place.view(arrays).shape for place in places} | dict.fromkeys(batch_counters(places), ())
    assert ours == expected


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in PRESETS]
)
def test_every_one_of_our_tensors_has_its_place_and_no_two_share_one(name):
    preset = PRESETS[name]
    arrays = jax.tree.map(lambda leaf: np.empty(leaf.shape, np.int16), abstract_variables(Clip(preset)))
    count = sum(leaf.size for collection in arrays.values() for leaf in _leaves(collection))
    for library in ("open_clip", *(["hugging_face"] if "ViT" in name else [])):
        places = weight_map(preset, library)
        views = [place.view(arrays) for place in places]
        assert sum(view.size for view in views) == count
        for number, view in enumerate(views):
            view[...] = number
        assert sum((view == number).sum() for number, view in enumerate(views)) == count


def _leaves(tree):
    for value in tree.values():
        yield from _leaves(value) if isinstance(value, dict) else [value]
