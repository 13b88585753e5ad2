"""The short forms of the random changes to files; the long ones are commands."""

import pytest

from tests.fuzz import json_files, weights


@pytest.mark.parametrize("seed", [0, 1])
def test_no_file_of_json_makes_a_command_fail_otherwise_than_by_a_paragraph(seed):
    assert not json_files.run(150, seed)


def test_no_file_of_weights_makes_a_command_fail_otherwise_than_by_a_paragraph():
    pytest.importorskip("torch")
    wrong, whole = weights.run(300, 0)
    assert not wrong
    assert 0 < whole < 150
