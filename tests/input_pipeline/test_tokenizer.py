"""The byte-pair tokenizer against ids that CLIP is known to give."""

import random

import numpy as np
import pytest

from rankclip_jax.input_pipeline import tokenizer
from rankclip_jax.interop.files import import_torch


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
    assert len(tokenizer.vocabulary()[0]) == tokenizer.VOCABULARY_SIZE - 2


def test_one_string_is_refused():
    with pytest.raises(TypeError, match="list of strings"):
        tokenizer.tokenize("a cat")


_WORDS = (
    "a the dog riding bicycle it's don't we're I'M they'll O'Neil naïve Straße 東京 привет مرحبا 한국어 ไทย "
    "3.14 $5 50% C++ #tag @user http://a.b/c?d=e&f=g &amp; &lt;b&gt; &#39; &amp;quot; "
    "â€œquoted” ‘x’ — … 🎨 👩‍👩‍👧 🇩🇪 ❤️ é ﬁ Ａ ½ ™ "
    "<|endoftext|> _under_ --- !!! (x) \n \t \r\n \x00 \x7f \u200b \ufeff \u3000 \xa0 ÃƒÂ©"
)


@pytest.mark.filterwarnings("ignore")
def test_ids_are_open_clips_on_texts_of_every_kind():
    pytest.importorskip("torch")
    import_torch("the test")
    theirs = pytest.importorskip("open_clip").get_tokenizer("ViT-B-32")
    words = _WORDS.split(" ")
    rng = random.Random(0)
    texts = [rng.choice(" -'").join(rng.choices(words, k=rng.randrange(40))) for _ in range(4000)]
    texts += ["".join(chr(rng.randrange(1, 0x3000)) for _ in range(rng.randrange(99))) for _ in range(1000)]
    texts += ["a" * 10_000, "ab" * 5000, "東京" * 5000, "🎨" * 10_000, "&amp;" * 2000, "'s" * 5000, " " * 10_000, "",
              "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=10_000))]  # fmt: skip
    different = np.flatnonzero((tokenizer.tokenize(texts) != theirs(texts).numpy()).any(axis=1))
    assert [texts[index] for index in different] == []


LONG = {
    "one letter": "a", "two": "ab", "three": "aab", "digits": "9", "marks": "!?", "emoji": "🎨", "Chinese": "東京",
    "entities": "&amp;amp;", "broken": "Ã©", "joined": "e\u0301", "invisible": "\u200b", "angles": "<",
    "references": "&#65;",
    "letters": "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=997)),
}  # fmt: skip


@pytest.mark.parametrize("kind", LONG)
def test_text_and_words_of_any_length_have_the_ids_of_all_their_letters(kind, monkeypatch):
    """Compared with what looks at every letter, for lengths that it can bear."""
    text = LONG[kind] * (120_000 // len(LONG[kind]))
    (ids,) = tokenizer.tokenize([text])
    monkeypatch.setattr(tokenizer, "_LETTERS_OF_WORD", 1 << 30)
    monkeypatch.setattr(tokenizer, "_LETTERS_OF_TEXT", 1 << 30)
    np.testing.assert_array_equal(ids, tokenizer.tokenize([text])[0])


def test_white_space_of_any_length_hides_no_word():
    found = tokenizer.tokenize([" \n\t" * 100_000 + "a cat" + " " * 300_000 + "sat", "a cat sat"])
    np.testing.assert_array_equal(found[0], found[1])


def test_a_huge_text_is_neither_worked_through_nor_kept():
    letters, merged = [], tokenizer._merge
    tokenizer._encode_word.cache_clear()
    for kind in LONG.values():
        text = kind * (2_000_000 // len(kind))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tokenizer, "_merge", lambda parts, ranks: letters.append(len(parts)) or merged(parts, ranks))
            tokenizer.tokenize([text])
    assert 1000 < max(letters) <= 4 * 256 * 77
    before = tokenizer._encode_word.cache_info().currsize
    tokenizer.tokenize(["b" * 33, "b" * 1000])
    assert tokenizer._encode_word.cache_info().currsize == before
    tokenizer.tokenize(["b" * 32])
    assert tokenizer._encode_word.cache_info().currsize == before + 1


@pytest.mark.parametrize("prefix", ["&#", "&amp;#", "&#0"])
def test_a_number_of_thousands_of_digits_is_no_character(prefix):
    assert tokenizer.clean(f"a {prefix}{'9' * 5000}; cat") == tokenizer.clean("a &#1114112; cat") == "a \ufffd cat"


def test_lone_surrogates_have_the_ids_of_what_is_no_character():
    found = tokenizer.tokenize(["a \ud83d cat", "a \ufffd cat"])
    np.testing.assert_array_equal(found[0], found[1])
