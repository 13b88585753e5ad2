"""The docs name settings, commands, files and flags that exist."""

import ast
import importlib.metadata
import importlib.util
import re
from pathlib import Path

import pytest
import yaml

from rankclip_jax.cli.commands import modules
from rankclip_jax.evaluation.tasks import EVALUATIONS, Task
from rankclip_jax.settings.schema import schema

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
FLAGS = [line for line in (ROOT / "tests" / "open_clip_flags.txt").read_text().splitlines() if line.startswith("--")]
MIGRATION = (ROOT / "docs" / "coming_from_open_clip.md").read_text(encoding="utf8")


def settings():
    """Dotted names of all settings, those of each encoder among them, and of the sections that hold them."""
    yield from schema().settings()
    for registry in schema().named:
        yield registry.setting
        tower = registry.setting.rpartition(".")[0]
        yield from (f"{tower}.{name}" for kind in registry.values() for name in getattr(kind, "declared", dict)())


SETTINGS = {
    name[:end] for name in settings() for end in (*(dot.start() for dot in re.finditer(r"\.", name)), len(name))
}
TASKS = {"evaluation.tasks.NAME"} | {
    f"evaluation.tasks.NAME.{name}" for kind in (Task, *EVALUATIONS.values()) for name in kind.declared()
}
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def anchors(page):
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@each_page
def test_a_page_names_settings_that_exist(page):
    """As `--config.a.b` or `config.a.b`; a page may declare options of its own, and name tasks as it likes."""
    text = page.read_text(encoding="utf8")
    named = set(re.findall(r"\bconfig\.([a-z]\w*(?:\.\w+)*)", text)) - {"json"}
    named = {re.sub(r"^evaluation\.tasks\.\w+", "evaluation.tasks.NAME", name) for name in named}
    own = set(re.findall(r"^    (\w+): .* = setting\(", text, re.MULTILINE))
    assert {name for name in named if name.rpartition(".")[2] not in own} <= SETTINGS | TASKS


@each_page
def test_a_page_names_commands_that_exist(page):
    text = page.read_text(encoding="utf8")
    assert set(re.findall(r"\brankclip-jax ([a-z]\w*)", text)) <= set(modules())
    for module in re.findall(r"python -m ((?:rankclip_jax|input_pipeline|tests)[\w.]*\w)", text):
        assert importlib.util.find_spec(module), module


@each_page
def test_the_links_of_a_page_lead_to_files_and_headings(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
        inside = page.is_relative_to(ROOT / "docs")
        assert not inside or target.resolve().is_relative_to(ROOT / "docs"), f"{link}: not part of the site"


def test_every_page_of_the_docs_is_in_the_sites_navigation():
    def files(entry):
        values = entry if isinstance(entry, list) else entry.values() if isinstance(entry, dict) else None
        return {entry} if values is None else {file for value in values for file in files(value)}

    nav = files(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert nav == {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}


@pytest.mark.parametrize("flag", FLAGS)
def test_every_training_flag_of_open_clip_has_one_row(flag):
    (row,) = re.findall(rf"^\| `{flag}` \|(.*)\|$", MIGRATION, re.MULTILINE)
    here, remark = (cell.strip() for cell in row.split("|", 1))
    assert here
    assert here != "-" or remark, "neither a counterpart nor a reason"


def test_the_flags_are_those_of_open_clip():
    """Of the version that the list names; where another one is installed, a new flag needs a row."""
    spec = importlib.util.find_spec("open_clip_train")
    if spec is None:
        pytest.skip("open_clip_train is not installed")
    tree = ast.parse((Path(spec.origin).parent / "params.py").read_text(encoding="utf8"))
    added = [call.args[0].value for call in ast.walk(tree) if isinstance(call, ast.Call)
             and isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument"]  # fmt: skip
    version = importlib.metadata.version("open_clip_torch")
    assert len(added) > 80
    assert set(added) <= set(FLAGS), f"open_clip_torch {version} has more flags: add them to the list and to the table"
    if f"open_clip_torch {version}" in (ROOT / "tests" / "open_clip_flags.txt").read_text():
        assert set(added) == set(FLAGS)
