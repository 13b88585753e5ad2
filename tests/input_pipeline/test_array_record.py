"""Prepared datasets: ArrayRecord in TensorFlow Datasets' layout, read without TensorFlow."""

import io
import sys

import pytest
from PIL import Image

from rankclip_jax.input_pipeline import array_record
from rankclip_jax.input_pipeline.errors import UserError


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A training split of five images, written by TensorFlow Datasets itself."""
    import tensorflow_datasets as tfds

    class Builder(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        name = "pairs"

        def _info(self):
            features = tfds.features.FeaturesDict({"image": tfds.features.Image(), "caption": tfds.features.Text()})
            return self.dataset_info_from_configs(features=features)

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for index in range(5):
                content = io.BytesIO()
                Image.new("RGB", (8, 6), (index * 40, 0, 0)).save(content, "PNG")
                yield index, {"image": content.getvalue(), "caption": f"réd {index}"}

    builder = Builder(data_dir=tmp_path_factory.mktemp("data"), file_format="array_record")
    builder.download_and_prepare()
    return builder.data_path


@pytest.mark.filterwarnings("ignore")  # writing warns of much that reading does not meet
def test_records_are_bytes_and_captions(prepared):
    source = array_record.open_split(prepared, "train", flag="config.data.train")
    assert len(source) == 5
    records = [source[index] for index in range(5)]
    assert sorted(record["text"] for record in records) == [[f"réd {index}"] for index in range(5)]
    for record in records:
        with Image.open(io.BytesIO(record["image"])) as image:
            assert image.size == (8, 6)
            assert image.getpixel((0, 0))[0] == 40 * int(record["text"][0][-1])
    assert "tensorflow" not in sys.modules


@pytest.mark.filterwarnings("ignore")
def test_missing_datasets_and_splits_are_explained(prepared, tmp_path):
    with pytest.raises(UserError, match=r"no split 'validation'\. Add it with: python -m .*input_pipeline.prepare"):
        array_record.open_split(prepared, "validation", flag="config.data.validation")
    with pytest.raises(UserError, match=r"config\.data\.train: no dataset at .*none\. Prepare it with"):
        array_record.open_split(tmp_path / "none", "train", flag="config.data.train")


@pytest.mark.parametrize("content", ["x", "{}", "[]"])
def test_a_damaged_description_is_a_paragraph(content, tmp_path):
    (tmp_path / "dataset_info.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.data\.train: the dataset at .* cannot be opened .*Prepare it again"):
        array_record.open_split(tmp_path, "train", flag="config.data.train")
