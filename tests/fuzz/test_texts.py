import random

from tests.fuzz import texts


def test_texts_drawn_at_random_are_read_or_refused():
    for number in range(300):
        texts.check(random.Random(number))
