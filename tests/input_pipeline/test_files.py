"""Files that anybody may have written are read with bounds, and what they hold is shown on one line."""

import os

import pytest

from rankclip_jax.input_pipeline import files
from rankclip_jax.input_pipeline.errors import UserError


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_text_is_read_with_or_without_a_byte_order_mark(mark, tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes(mark + "größe\n".encode())
    assert files.read_text(path) == "größe\n"
    path.write_bytes(mark + b'{"a": 1}')
    assert files.read_json(path) == {"a": 1}


@pytest.mark.parametrize("content", [b"{", b"[" * 100_000, b"9" * 10_000, b"\xff", b"[1]", b"3", b"null", b""])
def test_a_file_that_holds_no_json_object_is_named(content, tmp_path):
    path = tmp_path / "about.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"about\.json: expected"):
        files.read_json(path)


def test_a_text_file_has_a_limit(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes(b"x" * 11)
    assert files.read_text(path, limit=11) == "x" * 11
    with pytest.raises(UserError, match="at most 10 bytes"):
        files.read_text(path, limit=10)


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, files.Path("/dev/zero")):
        with pytest.raises(OSError, match=r"Not a regular file|Is a directory"):
            files.open_regular(path)


def test_what_a_file_is_called_cannot_move_the_cursor_or_begin_a_line():
    assert files.printable("a\x1b[2J\nb\r\u202ec\udcff\x00") == r"a\x1b[2J\nb\r\u202ec\udcff\x00"
    assert files.printable("größe 猫") == "größe 猫"
    assert len(files.printable("x" * 1000)) == 300
