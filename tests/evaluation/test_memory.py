"""What retrieval holds in memory, by the peak of a process."""

import subprocess
import sys

import pytest

from tests.commands import ROOT, environment

PROGRAM = """
import re
import numpy as np
from rankclip_jax.evaluation.retrieval import retrieval
rng = np.random.default_rng(0)
def rows(count):
    x = rng.standard_normal((count, 512), np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)
images, texts = rows({count}), rows({count})
retrieval(images[:{queries}], texts, np.arange({count}) % {queries})
# Not getrusage: its peak is that of the process that started this one, if that was larger.
print(1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]))
"""


@pytest.mark.slow
def test_a_hundred_thousand_images_and_texts_take_less_than_two_gigabytes():
    """Some rows of them: memory is of a block of rows, so that the others would take as much in turn."""
    program = PROGRAM.format(count=100_000, queries=500)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment(), capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 2e9
