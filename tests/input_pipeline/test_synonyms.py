"""The synonym file: groups of plain words, each word in one group only."""

from pathlib import Path

from rankclip_jax import input_pipeline


def _lines() -> list[str]:
    with open(Path(input_pipeline.__file__).with_name("synonyms.txt"), encoding="ascii") as file:
        return file.read().splitlines()


def test_there_are_at_least_200_groups_of_at_least_two_words():
    assert len(_lines()) >= 200
    assert [line for line in _lines() if len(line.split()) < 2] == []


def test_no_word_stands_twice():
    words = [word for line in _lines() for word in line.split()]
    assert sorted(words) == sorted(set(words))


def test_words_are_lower_case_letters_between_single_spaces():
    words = [word for line in _lines() for word in line.split(" ")]
    assert [word for word in words if not (word.isascii() and word.isalpha() and word.islower())] == []
