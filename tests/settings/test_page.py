"""The page of the documentation that lists every setting."""

from rankclip_jax.settings.page import page
from tests.commands import ROOT


def test_the_page_lists_what_is_declared():
    stored = (ROOT / "docs" / "settings.md").read_text(encoding="utf8")
    assert stored == page(), "make it anew: python -m rankclip_jax.settings.page > docs/settings.md"
