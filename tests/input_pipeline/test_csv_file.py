"""A person's own list of images: what is read, and what is said of a bad one."""

from pathlib import Path

import pytest

from rankclip_jax.input_pipeline import csv_file
from rankclip_jax.input_pipeline.errors import UserError


def read(path, **changes):
    settings = {"image_key": "filepath", "caption_key": "title", "delimiter": ",", "flag": "config.data.train"}
    return csv_file.read(path, **(settings | changes))


def write(tmp_path, text, encoding="utf8"):
    path = tmp_path / "train.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_pairs_are_read_with_paths_beside_the_file(tmp_path):
    path = write(tmp_path, 'title,filepath\n"a cat, and\na dog",a.jpg\nnaïve,/b/c.png\n')
    source = read(path)
    assert len(source) == 2
    assert source[0] == {"image": tmp_path / "a.jpg", "text": "a cat, and\na dog"}
    assert source[1] == {"image": Path("/b/c.png"), "text": "naïve"}


def test_tabs_and_byte_order_marks_are_understood(tmp_path):
    path = write(tmp_path, "filepath\ttitle\na.jpg\ta cat\n", "utf-8-sig")
    assert read(path, delimiter="\\t")[0]["text"] == "a cat"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("filepath,title\n", "has no whole rows"),
        ("image,caption\na,b\n", "no column 'filepath'; it has 'image', 'caption'"),
        ("filepath,title\na.jpg\n", "line 2: too few columns: found 1, expected at least 2"),
    ],
)
def test_a_bad_file_is_explained(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read(write(tmp_path, text))


def test_other_encodings_and_missing_files_are_named(tmp_path):
    with pytest.raises(UserError, match="line 2: not UTF-8 text"):
        read(write(tmp_path, "filepath,title\na.jpg,naïve\n", "latin1"))
    with pytest.raises(UserError, match=r"config\.data\.train: no file at .*none\.csv"):
        read(tmp_path / "none.csv")
    with pytest.raises(UserError, match="expected one character"):
        read(write(tmp_path, "filepath,title\na,b\n"), delimiter="ab")


def test_rows_without_a_caption_or_a_path_are_left_out_and_told(tmp_path, caplog):
    """As preparation skips them."""
    source = read(write(tmp_path, "filepath,title\na.jpg,a cat\nb.jpg,\nc.jpg,  \n,a dog\nd.jpg,a cow\n"))
    assert [source[index]["text"] for index in range(len(source))] == ["a cat", "a cow"]
    assert "3 rows without a path or a caption are left out, such as line 3" in caplog.text
    with pytest.raises(UserError, match="has no whole rows"):
        read(write(tmp_path, "filepath,title\na.jpg,\n"))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_a_table_in_utf_16_is_told_how_to_become_utf_8(tmp_path, encoding):
    text = "\ufefffilepath,title\na.jpg,naïve\n" if encoding.endswith("be") else "filepath,title\na.jpg,naïve\n"
    with pytest.raises(UserError, match=rf"is UTF-{encoding[4:6]} text; .*iconv -f UTF-{encoding[4:6]} -t UTF-8"):
        read(write(tmp_path, text, encoding))
