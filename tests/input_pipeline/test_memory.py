"""Commands that serve or prepare keep no memory of what was large."""

import subprocess
import sys

import pytest

from tests.commands import ROOT, environment

# Two threads that each decode a large image and small ones; the bytes that the process holds afterwards.
PROGRAM = """
import concurrent.futures, io, sys
from pathlib import Path
from PIL import Image
from rankclip_jax.cli import entry
from rankclip_jax.input_pipeline import images
from rankclip_jax.input_pipeline.preparation import runners

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

def main():
    before = resident()
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        for content in (large, small) * 3:
            list(threads.map(lambda content: images.decode(content).size, [content] * 2))
        print(resident() - before)

def png(side):
    file = io.BytesIO()
    Image.new("RGBA", (side, side)).save(file, "PNG", compress_level=1)
    return file.getvalue()

large, small = png(5000), png(600)
start = sys.argv.pop()
if start == "prepare":
    import os
    runners._start_worker(os.getppid())
    main()
else:
    entry.run(main, keeps_freed_memory=start == "train")
"""


def kept(start, **variables):
    command = [sys.executable, "-c", PROGRAM, start]
    done = subprocess.run(
        command, cwd=ROOT, env=environment() | variables, capture_output=True, text=True, timeout=200, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="an option of the GNU C library")
def test_memory_of_large_images_goes_back_to_the_system():
    image = 5000 * 5000 * 4
    assert kept("explore") < 0.3 * image
    assert kept("prepare") < 0.3 * image
    assert kept("train") > image, "training keeps it for the next step, or this test measures nothing"
    assert kept("explore", MALLOC_MMAP_MAX_="0", MALLOC_ARENA_MAX="1", MALLOC_TRIM_THRESHOLD_=str(1 << 40)) > image
