"""The examples in the docstrings of the public functions give what they print."""

import doctest
import subprocess
import sys

import pytest

import rankclip_jax
from input_pipeline import tokenizer
from tests.commands import ROOT, environment
from tests.interop.conftest import make_run

FUNCTIONS = (rankclip_jax.load, rankclip_jax.listmle, rankclip_jax.consistency, tokenizer.tokenize)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_the_example_of_a_public_function_gives_what_it_prints(function, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if function is rankclip_jax.load:
        make_run(tmp_path / "runs" / "demo")
    (example,) = doctest.DocTestFinder(recurse=False).find(function, globs={})
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0


def test_the_package_exports_its_functions_and_imports_jax_when_one_is_asked_for():
    script = (
        "import sys, rankclip_jax; assert 'jax' not in sys.modules; assert not hasattr(rankclip_jax, 'listnet');"
        "assert 'jax' not in sys.modules; from rankclip_jax import *; assert 'jax' in sys.modules;"
        "print(load.__name__, listmle.__name__, consistency.__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "load listmle consistency\n"), done.stderr
