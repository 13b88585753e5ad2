"""A person's own list of images: what is read, and what is said of a bad one."""

import gzip
import re
import zipfile
from pathlib import Path

import pytest

from rankclip_jax import input_pipeline
from rankclip_jax.evaluation import suite
from rankclip_jax.input_pipeline import csv_file, object_stores, prepare, tables
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.evaluation_sets import image_list
from rankclip_jax.input_pipeline.evaluation_sets.wording import ClassPrompts
from rankclip_jax.input_pipeline.preparation import urls
from rankclip_jax.input_pipeline.preparation.pairs import Skip
from rankclip_jax.input_pipeline.preparation.table import Table
from rankclip_jax.input_pipeline.source import captions
from rankclip_jax.recipes import base
from rankclip_jax.settings import recipe_files


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
        ("filepath,title\n", "expected rows with a path and a caption"),
        ("image,caption\na,b\n", "no column 'filepath'; found 'image', 'caption'"),
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
    assert "skipped 3 rows without a path or a caption, such as line 3" in caplog.text
    with pytest.raises(UserError, match="expected rows with a path and a caption"):
        read(write(tmp_path, "filepath,title\na.jpg,\n"))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_a_table_in_utf_16_is_told_how_to_become_utf_8(tmp_path, encoding):
    text = "\ufefffilepath,title\na.jpg,naïve\n" if encoding.endswith("be") else "filepath,title\na.jpg,naïve\n"
    with pytest.raises(UserError, match=rf"is UTF-{encoding[4:6]} text; .*iconv -f UTF-{encoding[4:6]} -t UTF-8"):
        read(write(tmp_path, text, encoding))


def shown(path, columns=("filepath", "title"), delimiter=""):
    return list(tables.rows(path, columns, delimiter, flag="config.data.train"))


FORTY = [f"{number}.jpg,a picture of {number}" for number in range(40)]


@pytest.mark.parametrize("stray", [[5], [5, 9], [5, 9, 20], [0, 39], list(range(40))])
@pytest.mark.parametrize("place", ["begin", "end"])
def test_stray_quotes_swallow_no_rows_and_are_told_with_their_lines(stray, place, tmp_path, caplog):
    lines = list(FORTY)
    for number in stray:
        image, caption = lines[number].split(",")
        caption = f'"{caption}' if place == "begin" or number == stray[0] else f'{caption}"'
        lines[number] = f"{image},{caption}"
    source = read(write(tmp_path, "\n".join(["filepath,title", *lines])))
    assert [source[number]["image"].name for number in range(len(source))] == [f"{number}.jpg" for number in range(40)]
    assert [source[number]["text"] for number in range(len(source))] == [line.split(",")[1] for line in lines]
    assert "starts with a quote that does not enclose it" in caplog.text
    assert f"(lines {stray[0] + 2}" in caplog.text


def test_surplus_fields_are_refused_with_line_numbers_as_pandas_does(tmp_path):
    pandas = pytest.importorskip("pandas")
    lines = list(FORTY)
    lines[3], lines[7] = "3.jpg,a cat, sleeping, on a mat", "7.jpg,a dog,"
    path = write(tmp_path, "\n".join(["filepath,title", *lines]))
    with pytest.raises(
        UserError, match=r"line 5: too many columns: found 4, expected 2; also lines 9\. Fix these rows"
    ):
        read(path)
    with pytest.raises(pandas.errors.ParserError, match="Expected 2 fields in line 5, saw 4"):
        pandas.read_csv(path)


def test_a_caption_of_several_lines_with_the_delimiter_is_kept_and_told(tmp_path, caplog):
    path = write(tmp_path, 'filepath,title\na.jpg,"a cat,\na dog, and\na cow"\nb.jpg,"two\nlines"\n')
    assert [values for _, values in shown(path)] == [("a.jpg", "a cat,\na dog, and\na cow"), ("b.jpg", "two\nlines")]
    assert (
        "1 quoted fields contain line ends and the delimiter, 3 lines in total; check for a missing quote (lines 2)"
        in (caplog.text)
    )


@pytest.mark.parametrize(
    ("name", "text", "delimiter"),
    [
        ("t.tsv", "filepath\ttitle\na.jpg\ta, cat\n", "\t"),
        ("t.csv", "filepath,title\na.jpg,a\tcat\n", ","),
        ("t.csv", "filepath\ttitle\na.jpg\ta, cat\n", "\t"),  # as open_clip writes CC3M's
        ("t.txt", "filepath\ttitle\na.jpg\ta, cat\n", "\t"),
        ("t", "filepath,title\na.jpg,a cat\n", ","),
    ],
)
def test_the_delimiter_follows_from_the_suffix(name, text, delimiter, tmp_path):
    (tmp_path / name).write_text(text)
    source = read(tmp_path / name, delimiter="")
    assert (source[0]["image"].name, source[0]["text"]) == ("a.jpg", text.splitlines()[1].split(delimiter)[1])


def test_several_columns_are_several_captions_as_in_preparation(tmp_path):
    path = write(tmp_path, 'filepath,short,long,"a,b"\n1.jpg,one,two,x\n2.jpg,,three,y\n3.jpg,,,z\n')
    source = read(path, caption_key="short, long")
    assert [captions(source[index]) for index in range(len(source))] == [["one", "two"], ["three"]]
    assert read(path, caption_key="a,b").captions == ("x", "y", "z")  # a column of that name wins
    with pytest.raises(UserError, match="no column 'tall'"):
        read(path, caption_key="short,tall")


@pytest.mark.parametrize("blank", ["\n", "\r\n", "  \n\n", "\t\n"])
def test_blank_first_lines_are_skipped(blank, tmp_path):
    assert shown(write(tmp_path, f"{blank}filepath,title\n\na.jpg,a cat\n"))[-1][1] == ("a.jpg", "a cat")


def make_gz(path):
    path.write_bytes(gzip.compress(b"filepath,title\na.jpg,x\n"))


def make_xlsx(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")


def make_parquet(path):
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table({"filepath": ["a.jpg"], "title": ["x"]}), path)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (make_gz, "is compressed by gzip; expected a text file, CSV or TSV. Convert it: gunzip --keep "),
        (make_xlsx, 'is an Excel sheet or another zip archive; .* "Save as", CSV'),
        (make_parquet, "is a Parquet file; .* python -c .import pandas; pandas.read_parquet"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_tables_of_other_kinds_are_one_sentence_in_training_and_in_preparation(make, said, tmp_path, capsys):
    make(tmp_path / "t.csv")
    with pytest.raises(UserError, match=said):
        read(tmp_path / "t.csv", delimiter="")
    for source in ("csv", "tsv", "urls"):
        with pytest.raises(SystemExit):
            prepare.main(["--source", source, "--input", str(tmp_path / "t.csv"), "--output", str(tmp_path / "x")])
        assert re.search(said, " ".join(capsys.readouterr().err.split()))
    assert not (tmp_path / "x").exists()


def settings(**data):
    config = base()
    config.data.update({"source": "csv", **data})
    return config.data


def test_several_tables_with_commas_between_and_commas_in_their_names(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("a,b.csv", "c.csv", "d, e, f.csv", "x.csv"), 1):
        (tmp_path / name).write_text("filepath,title\n" + "1.jpg,x\n" * number)
    for named, sizes in (
        ("a,b.csv", [1]),
        ("a,b.csv,c.csv", [1, 2]),
        ("c.csv, d, e, f.csv , x.csv", [2, 3, 4]),
        ("~/a,b.csv,~/c.csv", [1, 2]),
        (f"{tmp_path}/c.csv,~/x.csv", [2, 4]),
    ):
        source = input_pipeline.open_source(settings(train=named), "train", image_size=8, seed=0)
        assert [len(part) for part in getattr(source, "parts", (source,))] == sizes, named
    with pytest.raises(UserError, match="no file at none"):
        input_pipeline.open_source(settings(train="c.csv,none,x.csv"), "train", image_size=8, seed=0)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("1.jpg,a cat, sleeping,test", "line 4: too many columns: found 4, expected 3"),
        ("1.jpg", "line 4: too few columns: found 1, expected at least 3"),
    ],
)
def test_evaluation_refuses_the_same_rows(line, said, tmp_path):
    path = write(tmp_path, f"filepath,title,split\na.jpg,x,test\nb.jpg,y,test\n{line}\nc.jpg,z,test\n")
    with pytest.raises(UserError, match=said):
        image_list.open_set(path, "test", ClassPrompts())


def test_evaluation_loses_no_rows_to_stray_quotes(tmp_path, caplog):
    rows = [f"{number}.jpg,{chr(34) * (number in (5, 9))}a cat {number},test" for number in range(40)]
    path = write(tmp_path, "\n".join(["filepath,title,split", *rows]))
    assert len(image_list.open_set(path, "test", ClassPrompts())) == 40
    assert "lines 7, 11" in caplog.text


def test_preparation_and_url_lists_lose_no_rows_either(tmp_path):
    rows = [f"http://a/{number}.jpg,{chr(34) * (number % 3 == 0)}a cat {number}" for number in range(40)]
    path = write(tmp_path, "\n".join(["url,caption", *rows, "http://a/41.jpg,a,b", "http://a/42.jpg"]))
    lost = urls.write_list(path, "url", "caption", "", tmp_path)
    assert lost["skipped"] == {"too many columns": 1, "too few columns": 1}
    assert len((tmp_path / "urls.csv").read_text().splitlines()) == 41
    items = [item for job in Table(path, "url", "caption", "", 7).jobs() for item in job]
    assert len(items) == 42
    assert [item.name for item in items if isinstance(item, Skip)] == ["train.csv, line 42", "train.csv, line 43"]
    bare = write(tmp_path, "\n".join(row.replace(",", "\t") for row in rows))  # as CC12M's: no column names
    urls.write_list(bare, "url", "caption", "", tmp_path)
    assert len((tmp_path / "urls.csv").read_text().splitlines()) == 41


def test_doubtful_rows_of_a_preparation_are_told_once(tmp_path, caplog):
    path = write(tmp_path, 'filepath,title\na.jpg,"a cat\nb.jpg,a dog\n')
    table = Table(path, "filepath", "title", "", 7)
    table.describe()
    assert [list(table.jobs()) for _ in range(3)] == [[[("a.jpg", '"a cat'), ("b.jpg", "a dog")]]] * 3
    assert caplog.text.count("(lines 2)") == 1


def test_the_home_folder_is_understood_wherever_a_path_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert object_stores.path_of("~/x") == object_stores.disk_path_of("~/x") == tmp_path / "x"
    assert object_stores.path_of("a/~/x") == Path("a/~/x")
    assert recipe_files.find("~/mine.py") == tmp_path / "mine.py"
    parsed = prepare.parse(["--source", "folder", "--input", "~", "--output", "~/out"])
    assert (parsed.input, parsed.output) == (tmp_path, tmp_path / "out")
    (tmp_path / "suite.json").write_text(
        '{"tasks": [{"name": "a", "task": "zero_shot", "format": "folder", "path": "~/set", "classnames": "~/names"}]}'
    )
    (task,) = suite.read(tmp_path / "suite.json")
    assert (task.path, task.classnames) == (f"{tmp_path}/set", f"{tmp_path}/names")
