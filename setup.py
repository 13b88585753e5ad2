"""What pyproject.toml cannot say: the long description is the README, with links that work on a package index."""

import re
import tomllib
from pathlib import Path

from setuptools import setup

_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#)([^)\s]+)\)")


def long_description(text: str, repository: str | None) -> str:
    """The README with links to files made absolute.

    Args:
      text: the README.
      repository: its address, such as ``https://github.com/owner/name``; None: such links become plain text, and
        pictures are left out.
    """

    def replace(match: re.Match) -> str:
        mark, label, target = match.groups()
        if repository is None:
            return "" if mark else label
        return f"{mark}[{label}]({repository}/{'raw' if mark else 'blob'}/main/{target})"

    return _LINK.sub(replace, text)


if __name__ == "__main__":
    here = Path(__file__).parent
    urls = tomllib.loads((here / "pyproject.toml").read_text(encoding="utf8"))["project"].get("urls", {})
    readme = (here / "README.md").read_text(encoding="utf8")
    setup(
        long_description=long_description(readme, urls.get("Repository")),
        long_description_content_type="text/markdown",
    )
