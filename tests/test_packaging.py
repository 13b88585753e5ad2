"""What is installed: everything, under names that shadow nothing of the user's, and recipes from anywhere."""

import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from rankclip_jax.settings import recipe_files
from tests.commands import ROOT, run


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel, unpacked where Python looks, in a folder with a user's own `configs` and `input_pipeline`."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"  # builds leave files where they are made, in each other's way
    for name in ("rankclip_jax", "input_pipeline", "configs"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, source]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder / "site")
    for name in ("configs", "input_pipeline"):
        (folder / "home" / name).mkdir(parents=True)
    (folder / "home" / "input_pipeline" / "__init__.py").write_text("raise RuntimeError('the user\\'s own')\n")
    (folder / "home" / "configs" / "__init__.py").write_text("MINE = True\n")
    (folder / "home" / "configs" / "base.py").write_text("raise RuntimeError('the user\\'s own')\n")
    (folder / "home" / "configs" / "mine.py").write_text(
        "from rankclip_jax.recipes import base\nimport configs\n\n\ndef get_config():\n"
        "    config = base()\n    config.seed = 7 if configs.MINE else 0\n    return config\n"
    )
    return folder


def test_an_installed_package_works_from_anywhere_and_shadows_nothing(installed):
    assert {path.name.split("-")[0] for path in (installed / "site").iterdir()} == {"rankclip_jax"}
    assert (installed / "site" / "rankclip_jax" / "py.typed").is_file()  # type checkers use its annotations
    for part in ("rankclip_jax", "input_pipeline", "configs"):
        inside = installed / "site" / "rankclip_jax" / ("" if part == "rankclip_jax" else part)
        files = (path for path in (ROOT / part).rglob("*.*") if path.suffix != ".pyc")
        missing = [path for path in files if not (inside / path.relative_to(ROOT / part)).is_file()]
        assert not missing
    script = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1]);"
        "import rankclip_jax, configs; from rankclip_jax.settings import recipe_files;"
        "assert pathlib.Path(rankclip_jax.__file__).is_relative_to(sys.argv[1]); assert configs.MINE;"
        "assert recipe_files.find('demo').is_file() and recipe_files.find('configs/demo.py').is_file();"
        "from pathlib import Path; from rankclip_jax.evaluation import suite;"
        "assert suite.find(Path('datacomp')).read_bytes() == Path(sys.argv[2]).read_bytes();"
        "import runpy; assert runpy.run_path(str(recipe_files.find('demo')))['get_config']().train.steps == 240;"
        "assert runpy.run_path(str(recipe_files.find('configs/mine.py')))['get_config']().seed == 7;"
        "print(recipe_files.names())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(installed / "site"), str(ROOT / "configs" / "suites" / "datacomp.json")],
        cwd=installed / "home",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(recipe_files.names())


def test_the_console_command_is_installed(installed):
    (file,) = (installed / "site").glob("*.dist-info/entry_points.txt")
    assert file.read_text() == "[console_scripts]\nrankclip-jax = rankclip_jax.cli.commands:main\n"


def test_the_long_description_has_no_link_that_an_index_cannot_follow(installed):
    (file,) = (installed / "site").glob("*.dist-info/METADATA")
    text = file.read_text(encoding="utf8")
    assert "Description-Content-Type: text/markdown" in text
    assert "# rankclip_jax" in text
    links = re.findall(r"\]\(([^)]*)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    assert links
    assert all(link.startswith("https://") for link in links)


def test_links_of_the_readme_lead_into_the_repository_where_it_has_an_address():
    function = runpy.run_path(str(ROOT / "setup.py"))["long_description"]
    text = "![a, b](docs/a.png) [x](docs/b.md#c) [y](https://z.org) [d](#e)"
    assert function(text, "https://g.org/o/n") == (
        "![a, b](https://g.org/o/n/raw/main/docs/a.png) [x](https://g.org/o/n/blob/main/docs/b.md#c) "
        "[y](https://z.org) [d](#e)"
    )
    assert function(text, None) == " x [y](https://z.org) [d](#e)"


def test_commands_find_recipes_by_name_from_another_folder(installed):
    """The package as `make install` leaves it: in place, found from any folder."""
    said = run("train", "--config", "demo", "--config.train.steps=0", folder=installed / "home", status=2).stderr
    assert "either steps or epochs; found steps=0" in said
    assert (
        "Choose from configs/mine.py"
        in run("train", "--config", "configs/x.py", folder=installed / "home", status=2).stderr
    )


def test_a_users_own_file_comes_before_a_recipe_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recipe_files.find("demo") == recipe_files.FOLDER / "demo.py"
    Path("demo").write_text("")
    assert recipe_files.find("demo") == Path("demo")
    assert recipe_files.find("other.py") == Path("other.py")
