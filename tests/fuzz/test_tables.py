"""A short form of the random tables, in the suite."""

import pytest

from tests import fuzz
from tests.fuzz import tables


@pytest.mark.parametrize("seed", range(4))
def test_each_line_of_a_random_table_is_a_pair_or_is_counted(seed):
    assert fuzz.main(tables.check, ["--count", "100", "--seed", str(seed)]) == 0
