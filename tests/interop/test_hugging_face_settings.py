"""A Hugging Face folder's settings: what is made of them, beside what `transformers` makes of them."""

import copy
import random
from pathlib import Path

import pytest

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.interop import hugging_face, loading
from rankclip_jax.models.presets import PRESETS

PATH = Path("config.json")
FIELDS = {part: list(defaults) for part, defaults in hugging_face._DEFAULTS.items()}
VALUES = {"hidden_act": ["quick_gelu", "gelu", "relu"], "layer_norm_eps": [1e-5, 1e-6]}
WRONG = ["12", None, [12], {}, 1.5, True]
pytestmark = pytest.mark.filterwarnings("ignore")  # of the library compared with


def draw_part(rng, part):
    """Some of a part's fields, most of them with values that a model can have."""
    chosen = rng.sample(FIELDS[part], rng.randrange(len(FIELDS[part])))
    drawn = {field: rng.choice(VALUES.get(field, [64, 128, 384, 768])) for field in chosen}
    if "num_attention_heads" in drawn:
        drawn["num_attention_heads"] = rng.choice([2, 4, 8])  # of which every width drawn here is a multiple
    if "hidden_size" in drawn:
        drawn["num_attention_heads"] = 2
    if drawn and rng.random() < 0.1:
        drawn[rng.choice(list(drawn))] = rng.choice(WRONG)
    return drawn | rng.choice([{}, {"attention_dropout": 0.1}, {"model_type": f"clip_{part[:-7]}_model"}])


def draw(rng):
    config = {"model_type": "clip"} if rng.random() < 0.8 else {}
    if rng.random() < 0.6:
        config["projection_dim"] = rng.choice([256, 512, 768, *WRONG])
    for part in FIELDS:
        for key in (part, f"{part}_dict"):
            if rng.random() < (0.7 if key == part else 0.3):
                config[key] = rng.choice([draw_part(rng, part)] * 8 + [None, {}])
    return config


def theirs(transformers, config):
    """What decides a model's computation, as the library resolves it; None: it refuses the settings."""
    try:
        resolved = transformers.CLIPConfig.from_dict(copy.deepcopy(config))
    except Exception:  # of several kinds
        return None
    parts = {part: {field: getattr(getattr(resolved, part), field) for field in FIELDS[part]} for part in FIELDS}
    return parts | {"projection_dim": resolved.projection_dim}


def ours(config):
    try:
        return hugging_face.resolve(copy.deepcopy(config), PATH)
    except UserError:
        return None


def test_settings_are_resolved_as_the_library_does(transformers):
    rng, equal, refused = random.Random(0), 0, 0
    for _ in range(1500):
        config = draw(rng)
        found, expected = ours(config), theirs(transformers, config)
        if found is None:  # what we refuse may be what the library takes and no preset has, such as no epsilon
            refused += 1
            assert expected is None or any(
                type(value) is not type(default)
                for part, defaults in hugging_face._DEFAULTS.items()
                for value, default in zip(expected[part].values(), defaults.values(), strict=True)
            ) or type(expected["projection_dim"]) is not int, config  # fmt: skip
        elif expected is not None:
            equal += 1
            assert found == expected, config
    assert equal > 500
    assert refused > 50


def test_the_librarys_defaults_are_those_of_its_newest_version(transformers):
    assert ours({}) == theirs(transformers, {})
    assert ours({"model_type": "clip", "text_config": None, "vision_config_dict": {}}) == theirs(transformers, {})


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-L-14-336", "ViT-demo"])
def test_what_we_write_is_read_by_both_as_the_preset(name, transformers):
    from rankclip_jax.models.clip import Clip

    config = hugging_face._model_config(Clip(PRESETS[name]))
    assert ours(config) == theirs(transformers, config)
    assert hugging_face.check_config(PATH, ours(config), PRESETS[name]) == "quick_gelu"


@pytest.mark.parametrize("part", FIELDS)
def test_a_field_that_is_not_the_weights_is_named(part):
    preset = PRESETS["ViT-B-32"]
    for field, default in hugging_face._DEFAULTS[part].items():
        if field == "hidden_act":
            continue
        resolved = ours({})
        resolved[part][field] = default * 3
        with pytest.raises(UserError, match=rf"config\.json: {part}\.{field}: (expected|only) .*; found"):
            hugging_face.check_config(PATH, resolved, preset)
    old = ours({"text_config": {"eos_token_id": 2}})
    assert hugging_face.check_config(PATH, old, preset) == "quick_gelu"
    with pytest.raises(UserError, match="projection_dim: expected 512; found 768"):
        hugging_face.check_config(PATH, ours({"projection_dim": 768}), preset)


def test_an_image_processor_that_does_not_normalise_is_believed(tmp_path):
    path = tmp_path / "preprocessor_config.json"
    for content, expected in {
        "{}": {}, '{"image_mean": null}': {}, '{"image_mean": [0.5, 0.5, 1]}': {"pixel_mean": (0.5, 0.5, 1.0)},
        '{"do_normalize": false, "image_mean": [0.5, 0.5, 0.5]}': {"pixel_mean": (0.0,) * 3,
                                                                   "pixel_std": (1.0,) * 3},
    }.items():  # fmt: skip
        path.write_text(content)
        assert loading._processor_pixels(path) == expected
    for content in ('{"image_std": [0, 0, 0]}', '{"image_mean": 1}', '{"image_mean": [1e400, 0, 0]}', "[]", "{"):
        path.write_text(content)
        with pytest.raises(UserError, match=r"preprocessor_config\.json"):
            loading._processor_pixels(path)
