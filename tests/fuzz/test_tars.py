import random

from tests.fuzz import tars


def test_samples_of_tars_drawn_at_random_are_pairs_or_counted():
    for number in range(150):
        tars.check(random.Random(number))
