"""What a run says at its start of what its model sees and reads."""

import pytest

from configs import csv, csv_small, demo
from rankclip_jax.input_pipeline.errors import UnreadableError
from rankclip_jax.input_pipeline.scenes import Scenes
from rankclip_jax.input_pipeline.tokenizers import CLIP
from rankclip_jax.models import clip
from rankclip_jax.models.presets import PRESETS
from rankclip_jax.training import input_sizes
from tests.training.conftest import train_small

SHORT = [{"text": "a cat"}] * 100


def notes(recipe, source, **changes):
    config = recipe.get_config()
    config.model.update({"dtype": "float32"} | changes)  # decided by the device where a recipe says "auto"
    return input_sizes.notes(config.model.name, clip.build(config.model).preset, source, CLIP)


def test_a_preset_at_too_few_pixels_is_told():
    (note,) = notes(csv_small, SHORT, name="ViT-B-32")
    assert "at 64 pixels ViT-B-32 has only 4 patches" in note
    assert "at the preset's 224 pixels, 49" in note
    assert "at 64 pixels RN50 has only 4 positions" in notes(csv_small, SHORT, name="RN50")[0]


@pytest.mark.parametrize("recipe", [csv, csv_small, demo], ids=lambda recipe: recipe.__name__)
def test_recipes_as_they_are_get_no_note(recipe):
    assert notes(recipe, SHORT) == []


def test_the_demos_captions_fit_its_model():
    assert notes(demo, Scenes("train", 500, 32, 0)) == []


class Mixed:
    """Every third record has a long caption too; every seventh is damaged."""

    def __len__(self):
        return 1000

    def __getitem__(self, index):
        if index % 7 == 6:
            raise UnreadableError("damaged")
        return {"text": ["word " * 40, "short"] if index % 3 == 0 else "a cat"}


def test_captions_that_lose_their_end_are_counted_in_a_few_records():
    (note,) = notes(csv_small, Mixed())
    cut, seen = (int(word) for word in note.split() if word.isdecimal() and word not in ("24", "77"))
    indices = [index for index in range(0, 1000, 16) if index % 7 != 6]
    assert (cut, seen) == (
        sum(index % 3 == 0 for index in indices),
        sum(2 if index % 3 == 0 else 1 for index in indices),
    )


def test_few_long_captions_are_no_reason_for_a_note():
    assert notes(csv_small, [{"text": "word " * 40}] * 5 + SHORT) == []
    assert "5 of 5 sampled captions" in notes(csv_small, [{"text": "word " * 40}] * 5)[0]


def test_a_run_from_python_takes_a_string_and_says_its_sizes(tmp_path, capsys):
    train_small(str(tmp_path / "run"), train__steps=1, data__workers=0, model__image_size=16)
    said = capsys.readouterr().out
    assert "images:    16 x 16 pixels, 4 patches of 8 x 8\n" in said
    assert "captions:  24 tokens\n" in said
    assert "note: at 16 pixels tiny has only 4 patches" in said
    assert (tmp_path / "run" / "config.json").is_file()


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_described(name):
    preset, said = PRESETS[name], input_sizes.summary(PRESETS[name])
    side = preset.vision.image_size // preset.vision.stride
    assert f"{side * side} p" in said["images"]
    assert said["captions"] == f"{preset.text.context_length} tokens"
