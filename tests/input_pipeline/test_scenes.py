"""The embedded data: pure, many-to-many, of known relevance, with combinations held out."""

import numpy as np
import pytest

from configs import demo
from rankclip_jax import input_pipeline
from rankclip_jax.input_pipeline import scenes
from rankclip_jax.input_pipeline.errors import UserError


def test_a_scene_is_a_pure_function_of_seed_split_and_index():
    first, again = (scenes.Scenes("train", 50, 32, seed=3)[17] for _ in range(2))
    np.testing.assert_array_equal(first["image"], again["image"])
    assert first["text"] == again["text"]
    assert first["image"].dtype == np.uint8
    assert first["image"].shape == (32, 32, 3)
    other = scenes.Scenes("train", 50, 32, seed=4)[17]
    assert not np.array_equal(first["image"], other["image"])


def test_training_never_shows_a_held_out_combination():
    trained, held_out = ({tuple(row) for row in scenes.combinations(split)} for split in ("train", "validation"))
    assert not trained & held_out
    assert len(trained) + len(held_out) == np.prod([len(values) for values in scenes.ATTRIBUTES.values()])
    for column, values in enumerate(scenes.ATTRIBUTES.values()):
        assert {row[column] for row in trained} == {row[column] for row in held_out} == set(range(len(values)))


def test_captions_say_what_they_mention_and_nothing_else():
    source = scenes.Scenes("train", 200, 16)
    mentioned = source.caption_attributes()
    assert set((mentioned != scenes.UNMENTIONED).sum(1)) >= {1, 2, 3, 4, 5}
    for index in range(200):
        words = source[index]["text"].rstrip(".").split()
        for values, value in zip(scenes.ATTRIBUTES.values(), mentioned[index], strict=True):
            said = [word for word in values if word in words]
            assert said == ([] if value == scenes.UNMENTIONED else [values[value]])


def test_relevance_is_the_share_of_what_is_said():
    images = np.array([[0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]])
    captions = np.array([[0, 0, -1, -1, -1, -1], [1, 1, 1, 1, 1, 1]])
    np.testing.assert_array_equal(scenes.relevance(images, captions), [[1, 0], [0.5, 1 / 6]])


def test_every_caption_is_true_of_its_image_and_of_others():
    relevance = scenes.Scenes("validation", 300, 16).relevance()
    assert (np.diag(relevance) == 1).all()
    assert ((relevance == 1).sum(0) > 1).mean() > 0.5
    assert ((relevance == 1).sum(1) > 1).mean() > 0.5


def test_labels_name_the_colour_and_shape_that_captions_tell():
    source = scenes.Scenes("validation", 64, 16)
    attributes = source.image_attributes()
    colours, shapes = scenes.ATTRIBUTES["colour"], scenes.ATTRIBUTES["shape"]
    for label, row in zip(source.class_labels(), attributes, strict=True):
        assert scenes.CLASS_NAMES[label] == f"{colours[row[scenes.COLOUR]]} {shapes[row[scenes.SHAPE]]}"


def test_pictures_differ_where_attributes_do():
    """Every value of every attribute changes the drawing."""
    base = np.zeros(6, int)
    for column, values in enumerate(scenes.ATTRIBUTES.values()):
        drawn = []
        for value in range(len(values)):
            attributes = base.copy()
            attributes[column] = value
            drawn.append(scenes._draw_image(attributes, 32, np.random.default_rng(0)).astype(int))
        for first in range(len(drawn)):
            for second in range(first):
                assert (np.abs(drawn[first] - drawn[second]).max(-1) > 25).mean() > 0.005


def test_a_path_that_scenes_would_ignore_is_refused():
    config = demo.get_config().data
    config.train = "data/mine"
    with pytest.raises(UserError, match=r"config\.data\.train: config\.data\.source is scenes.*data/mine"):
        input_pipeline.open_source(config, "train", image_size=32, seed=0)
