"""Whole commands, as a user starts them."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def environment(devices=1):
    return os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"}


def run(module, *arguments, devices=1, status=0, folder=ROOT):
    """Runs ``python -m rankclip_jax.MODULE``, or another module with a dot in its name, and checks its exit status."""
    name = module if "." in module else f"rankclip_jax.{module}"
    command = [sys.executable, "-m", name, *map(str, arguments)]
    done = subprocess.run(
        command, cwd=folder, env=environment(devices), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done
