"""What of a platform is set before JAX is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rankclip_jax.distributed import platform

# Page faults of a step whose temporaries are far larger than what malloc keeps by itself.
_FAULTS = """
import resource
from rankclip_jax.distributed import platform
platform.keep_freed_memory()
if {given_back}:
    platform.give_freed_memory_back()
import jax, jax.numpy as jnp
rows = jnp.ones((2048, 4096))
step = jax.jit(lambda x: (jnp.sin(x) @ x[:512].T).sum()).lower(rows).compile()
faults = []
for _ in range(12):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step(rows).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults))
"""


def _least_faults(given_back: bool = False, **variables: str) -> int:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "JAX_"))}
    program = _FAULTS.replace("{given_back}", str(given_back))
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=kept | variables, timeout=120
    )
    return int(run.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have other allocators")
def test_what_a_step_frees_the_next_one_finds_where_cpus_compute():
    temporaries = 2048 * 4096 * 4 // os.sysconf("SC_PAGE_SIZE")  # pages of the sine alone
    assert _least_faults(JAX_PLATFORMS="cpu") < temporaries / 10
    assert _least_faults(given_back=True, JAX_PLATFORMS="cpu") > temporaries
    assert _least_faults(JAX_PLATFORMS="cpu", MALLOC_TRIM_THRESHOLD_="131072") > temporaries, "the user's own word"
    assert _least_faults(JAX_PLATFORMS="cuda,cpu") > temporaries, "hosts of GPUs decode in many threads"


def test_only_commands_that_compute_steps_keep_what_they_free():
    commands = Path(platform.__file__).parent.parent.glob("*.py")
    keep = {path.stem for path in commands if "keeps_freed_memory=True" in path.read_text()}
    assert keep == {"train", "evaluate", "embed", "study", "benchmark"}
