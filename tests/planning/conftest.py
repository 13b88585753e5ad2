"""Commands as a user gives them."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def run_command():
    def run(command, *words):
        return subprocess.run(
            [sys.executable, "-m", f"rankclip_jax.{command}", *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    return run
