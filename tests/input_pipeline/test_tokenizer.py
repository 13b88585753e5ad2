"""The byte-pair tokenizer against ids that CLIP is known to give."""

import numpy as np
import pytest

from input_pipeline import tokenizer


def test_known_captions_have_clips_ids():
    ids = tokenizer.tokenize(["a photo of a cat", "A  Photo\nof a CAT", "hello world!"])
    assert ids.dtype == np.int32
    assert ids.shape == (3, 77)
    assert ids[0, :8].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407, 0]
    np.testing.assert_array_equal(ids[0], ids[1])
    assert ids[2, :5].tolist() == [49406, 3306, 1002, 256, 49407]


def test_a_long_caption_keeps_its_end_of_text():
    (ids,) = tokenizer.tokenize(["cat " * 500])
    assert ids[0] == tokenizer.START_OF_TEXT
    assert ids[-1] == tokenizer.END_OF_TEXT
    assert (ids == tokenizer.END_OF_TEXT).sum() == 1


def test_marks_spelt_in_a_caption_stay_words():
    (ids,) = tokenizer.tokenize(["a <end_of_text> in a <start_of_text> caption"])
    assert (ids == tokenizer.END_OF_TEXT).sum() == 1
    assert (ids == tokenizer.START_OF_TEXT).sum() == 1


def test_entities_and_broken_characters_are_mended():
    assert tokenizer.clean("AT&amp;T") == "at&t"
    assert tokenizer.clean("schÃ¶n") == "schön"


def test_every_byte_has_a_symbol_of_its_own():
    assert len(set(tokenizer._byte_symbols())) == 256
    assert len(tokenizer._vocabulary()[0]) == tokenizer.VOCABULARY_SIZE - 2


def test_one_string_is_refused():
    with pytest.raises(TypeError, match="list of strings"):
        tokenizer.tokenize("a cat")
