"""The layouts that evaluation reads, where names come from, and what a suite file can say."""

import io
import json
import shutil
import string

import numpy as np
import pytest
from PIL import Image

from rankclip_jax.evaluation import public_results, suite
from rankclip_jax.evaluation.metric import Metric
from rankclip_jax.input_pipeline.errors import UnreadableError, UserError
from rankclip_jax.input_pipeline.evaluation_sets import open_set, wording
from rankclip_jax.input_pipeline.evaluation_sets.wording import ClassPrompts
from rankclip_jax.settings.recipe_files import FOLDER
from tests.evaluation import layouts

PLAIN = ClassPrompts()


def array_of_halves():
    file = io.BytesIO()
    np.save(file, np.array([0.5, 7.0]))
    return file.getvalue()


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (9, 9), (len(path.name), 0, 0)).save(path)


def write_lines(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines))


def test_tars_give_images_where_they_lie_and_labels(tmp_path):
    layouts.classification(tmp_path)
    found = open_set("webdataset", tmp_path, "test", PLAIN)
    drawn = layouts.scenes()
    assert len(found) == layouts.COUNT
    assert found.truth.classes.labels([0, 5, 36]).tolist() == (drawn.class_labels([0, 5, 36]) % 8).tolist()
    assert found.truth.classes.prompts[1] == [f"a photo of a {found.truth.classes.names[1]}.",
                                              f"the {found.truth.classes.names[1]}, drawn"]  # fmt: skip
    assert found[0]["image"] == layouts.encoded(drawn[0]["image"])
    (tmp_path / "test" / "0.tar").write_bytes(b"")
    with pytest.raises(UnreadableError):
        found[0]


def test_what_stands_beside_a_label_names_the_group(tmp_path):
    layouts.classification(tmp_path)
    assert open_set("webdataset", tmp_path, "test", PLAIN).truth.groups is None
    image = layouts.encoded(layouts.scenes()[0]["image"])
    members = [{"png": image, "cls": b"0", "npy": layouts.array([number % 3, 7])} for number in range(5)]
    shutil.rmtree(tmp_path / "test")
    layouts.write_tars(tmp_path / "test", members)
    assert open_set("webdataset", tmp_path, "test", PLAIN).truth.groups([4, 0, 2]).tolist() == [1, 0, 2]
    for damaged in (b"not an array", layouts.array([]), array_of_halves()):
        shutil.rmtree(tmp_path / "test")
        layouts.write_tars(tmp_path / "test", [*members, members[0] | {"npy": damaged}])
        found = open_set("webdataset", tmp_path, "test", PLAIN)
        with pytest.raises(UserError, match=r"npy of \S+ is not an array|expected a whole number as the group"):
            found.truth.groups(range(6))


def test_captions_are_lines(tmp_path):
    layouts.captions(tmp_path)
    found = open_set("webdataset", tmp_path, "test", PLAIN)
    assert [len(found[index]["text"]) for index in range(6)] == [1, 2, 3, 4, 1, 2]


def test_a_folder_for_each_class(tmp_path):
    for name, count in (("b_cat", 2), ("a_dog", 3)):
        for number in range(count):
            picture(tmp_path / "test" / name / f"{number}.png")
    write_lines(tmp_path / "zeroshot_classification_templates.txt", "a {c}")
    found = open_set("folder", tmp_path, "test", PLAIN)
    assert found.truth.classes.prompts == [["a a dog"], ["a b cat"]]
    assert found.truth.classes.labels(range(5)).tolist() == [0, 0, 0, 1, 1]
    write_lines(tmp_path / "classnames.txt", "dog", "cat", "cow")
    with pytest.raises(UserError, match="expected one class name for each of 2 folders; found 3"):
        open_set("folder", tmp_path, "test", PLAIN)
    (tmp_path / "test" / "empty").mkdir()
    with pytest.raises(UserError, match="empty: expected images of this class; found none"):
        open_set("folder", tmp_path, "test", PLAIN)


def test_a_csv_file_with_labels_numbers_or_captions(tmp_path):
    for name in ("0.png", "1.png", "2.png"):
        picture(tmp_path / name)
    write_lines(tmp_path / "zeroshot_classification_templates.txt", "a {c}")
    write_lines(tmp_path / "x.csv", "filepath,label,split", "0.png,dog,test", "1.png,cat,test", "2.png,cow,train")
    found = open_set("csv", tmp_path / "x.csv", "test", PLAIN)
    assert (found.truth.classes.names, found.truth.classes.labels([0, 1]).tolist()) == (("cat", "dog"), [1, 0])
    write_lines(tmp_path / "y.csv", "filepath,label", "0.png,1", "1.png,0")
    with pytest.raises(UserError, match=r"no class names\. Set classnames"):
        open_set("csv", tmp_path / "y.csv", "test", PLAIN)
    write_lines(tmp_path / "classnames.txt", "dog", "cat")
    assert open_set("csv", tmp_path / "y.csv", "test", PLAIN).truth.classes.labels([0, 1]).tolist() == [1, 0]
    write_lines(tmp_path / "z.tsv", "filepath\ttitle", "0.png\ta, b", "1.png\td", "0.png\tc")
    found = open_set("csv", tmp_path / "z.tsv", "test", PLAIN)
    assert [found[index]["text"] for index in (0, 1)] == [["a, b", "c"], ["d"]]


@pytest.mark.filterwarnings("ignore")  # TensorFlow Datasets warns of much
def test_a_split_of_tensorflow_datasets(tmp_path):
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(shape=(None, None, 3)), "label": tfds.features.ClassLabel(names=["cat", "dog"])}
    )
    serializer = tfds.core.example_serializer.ExampleSerializer(features.get_serialized_info())
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(tmp_path / "x-test.array_record-00000-of-00001"), "group_size:1")
    for number in range(3):
        image = io.BytesIO(layouts.encoded(np.full((4, 5, 3), 40 * number, np.uint8)))
        writer.write(serializer.serialize_example(features.encode_example({"image": image, "label": number % 2})))
    writer.close()
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    name = tfds.core.ShardedFileTemplate(tmp_path, template, "x", "test", "array_record")
    split = tfds.core.SplitInfo(name="test", shard_lengths=[3], num_bytes=100, filename_template=name)
    tfds.folder_dataset.write_metadata(
        data_dir=tmp_path, features=features, split_infos=[split], filename_template=name, check_data=False
    )
    found = open_set("tfds", tmp_path, "test", ClassPrompts(templates=str(lines(tmp_path / "t.txt", "a {}"))))
    assert (len(found), found.truth.classes.names) == (3, ("cat", "dog"))
    assert found.truth.classes.labels([0, 1, 2]).tolist() == [0, 1, 0]
    with pytest.raises(UserError, match="no split 'train'"):
        open_set("tfds", tmp_path, "train", PLAIN)


def lines(path, *words):
    write_lines(path, *words)
    return path


def test_names_come_from_json_from_sentences_and_from_the_package(tmp_path, monkeypatch):
    names, labels = ["cat", "dog"], len
    (tmp_path / "names.json").write_text('["Katze", "Hund"]')
    (tmp_path / "sentences.json").write_text('{"Katze": ["eine Katze {"], "Hund": ["ein Hund", "mein Hund"]}')
    both = ClassPrompts("names.json", "sentences.json", tmp_path)
    assert both.classes(names, ["x"], labels).prompts == [["eine Katze {"], ["ein Hund", "mein Hund"]]
    (tmp_path / "known.json").write_text('{"pets": ["cat", "dog", "cow"]}')
    (tmp_path / "templates.json").write_text('{"pets": ["my {c}"]}')
    files = {"en_classnames.json": "known.json", "en_zeroshot_classification_templates.json": "templates.json"}
    monkeypatch.setattr(wording, "_package_file", lambda name: tmp_path / files[name] if name in files else None)
    assert ClassPrompts("pets", "pets").classes(None, None, labels).prompts == [["my cat"], ["my dog"], ["my cow"]]
    with pytest.raises(UserError, match="'birds' is neither a file nor a key"):
        ClassPrompts("birds").classes(None, None, labels)
    with pytest.raises(UserError, match="have no sentences for the class 'dog'"):
        ClassPrompts("", "sentences.json", tmp_path).classes(["Katze", "dog"], None, labels)


def test_names_are_never_evaluated():
    told = PLAIN.classes(["{0.__class__}", "b"], ["a {c}, {d}"], len)
    assert told.prompts == [["a {0.__class__}, {d}"], ["a b, {d}"]]


@pytest.mark.parametrize("path", sorted((FOLDER / "suites").glob("*.json")), ids=lambda path: path.stem)
def test_suites_that_come_with_the_system_can_be_read(path):
    tasks = suite.read(suite.find(path))
    assert suite.find(suite.Path(path.stem)) == path
    count = {"vtab_plus": 36, "datacomp": 38, "sugar_crepe": 7, "paper_zero_shot": 14, "paper_linear_probe": 14}
    assert len(tasks) == count.get(path.stem, len(tasks))


GOOD = {"name": "a", "task": "zero_shot", "format": "webdataset", "path": "x"}


def test_sets_of_images_to_choose_among(tmp_path):
    layouts.winogavil(tmp_path)
    found = open_set("winogavil", tmp_path, "test", PLAIN)
    assert len(found) == len({path.name for path in found.paths})
    first = found.truth.choices[0]
    assert [found.paths[number].stem for number in first.images] == ["n 0", "n 3", "n 6", "n 9", "n 12"]
    assert first.right == (False, True, True, False, False)
    assert first.cue.split()[0] == ("An" if first.cue.split()[1][0] in "aeiou" else "A")
    assert found[0] == {"image": found.paths[0], "text": []}
    (tmp_path / "test.csv").write_text('cue,candidates,associations\nOwl,"[""n 1"", ""n 2""]","[""n 2""]"\n')
    assert open_set("winogavil", tmp_path, "test", PLAIN).truth.choices[0].cue == "An owl"


ROW = 'cue,candidates,associations\nowl,"{}","{}"\n'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "expected rows; found none"),
        ("cue,candidates\nowl,[]\n", r"expected columns cue.*KeyError: 'associations'"),
        (ROW.format("n 1", "n 1"), "two of them JSON lists"),
        (ROW.format("7", "[7]"), "two of them JSON lists"),
        (ROW.format("[1, 2]", "[1]"), "expected lists of image names"),
        (ROW.format('[""../n 1"", ""n 2""]', '[""n 2""]'), "expected lists of image names"),
        (
            ROW.format('[""n 1"", ""n 2""]', '[""n 3""]'),
            "row 1: expected a cue, distinct candidates and a proper subset",
        ),
        (ROW.format('[""n 1"", ""n 1""]', '[""n 1""]'), "row 1: expected"),
        (ROW.format('[""n 1"", ""n 2""]', "[]"), "row 1: expected"),
        (ROW.format('[""n 1"", ""none""]', '[""n 1""]'), r"1 of 2 images are missing, for example .*none\.jpg"),
    ],
)
def test_sets_that_are_none_are_refused(tmp_path, content, words):
    layouts.winogavil(tmp_path)
    (tmp_path / "test.csv").write_text(content)
    with pytest.raises(UserError, match=words):
        open_set("winogavil", tmp_path, "test", PLAIN)


def test_a_folder_without_sets_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"expected test\.csv or winogavil_dataset\.csv; found neither"):
        open_set("winogavil", tmp_path, "test", PLAIN)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "expected JSON"),
        ("[]", 'a non-empty list "tasks"'),
        ('{"tasks": []}', 'a non-empty list "tasks"'),
        ('{"tasks": [3]}', "task 1: expected an object; found 3"),
        ([GOOD | {"colour": 1}], "task 1: unknown field 'colour'; choose from task, path"),
        ([{"name": "a"}], "task 1: 'task' is missing"),
        ([GOOD | {"shots": 3}], "unknown field 'shots'; choose from task, path"),
        (
            [GOOD | {"task": "linear_probe", "shots": "3"}],
            "shots: expected a number, at least 0 and at most 1e+09; found '3'",
        ),
        ([GOOD | {"task": "linear_probe", "shots": -3}], "shots: expected a number, at least 0"),
        ([GOOD | {"task": "guess"}], "unknown task 'guess'; choose from validation, retrieval"),
        ([GOOD | {"format": "zip"}], "format: unknown value 'zip'"),
        ([GOOD, GOOD], "several tasks named 'a'"),
        ([GOOD | {"name": "../a"}], "name: expected letters"),
        ([GOOD | {"name": ""}], "task 1: 'name' is missing"),
    ],
)
def test_what_no_suite_can_say(content, words, tmp_path):
    path = tmp_path / "suite.json"
    path.write_text(content if isinstance(content, str) else json.dumps({"tasks": content}))
    with pytest.raises(UserError, match="--suite: ") as raised:
        suite.read(path)
    assert words in str(raised.value)


def test_a_result_that_is_damaged_is_none_and_numbers_that_are_not_defined_are_null(tmp_path):
    metrics = [
        Metric("zero_shot/top_1", 0.5, public_name="acc1"),
        Metric("zero_shot/top_5", None, public_name="acc5"),
    ]
    content = public_results.result(
        dataset="d", model="m", pretrained="p", task="zero_shot", metrics=metrics, provenance={}
    )
    public_results.write(tmp_path / "x.json", content)
    assert public_results.read(tmp_path / "x.json") == content
    assert content["metrics"] == {"acc1": 0.5, "acc5": None}
    (tmp_path / "x.json").write_text("[]")
    assert public_results.read(tmp_path / "x.json") is None


def test_names_and_templates_as_lists_in_the_suite_itself(tmp_path):
    layouts.classification(tmp_path / "set")
    names = [f"shape {number}" for number in range(8)]
    (tmp_path / "suite.json").write_text(
        json.dumps({"tasks": [GOOD | {"classnames": names, "templates": ["a photo of a {}", "the {c}"]}]})
    )
    (task,) = suite.read(tmp_path / "suite.json")
    found = open_set("webdataset", tmp_path / "set", "test", ClassPrompts(task.classnames, task.templates))
    assert found.truth.classes.prompts[3] == ["a photo of a shape 3", "the shape 3"]
    for wrong in ([], [3], {"a": ["b"]}, 3, None, "", ["a", None]):
        (tmp_path / "suite.json").write_text(json.dumps({"tasks": [GOOD | {"templates": wrong}]}))
        with pytest.raises(UserError, match=r'templates: expected a list such as \["a photo of a \{\}"\].*\{c\}'):
            suite.read(tmp_path / "suite.json")
    with pytest.raises(UserError, match=r"'a photo' has no placeholder \{\} or \{c\}"):
        ClassPrompts("", ["a photo"]).classes(names, None, len)


def test_templates_are_filled_as_str_format_fills_them():
    rng = np.random.default_rng(0)
    parts = ["{{", "}}", "{c}", "{}", "a", " ", "icon"]
    for _ in range(500):
        template = "".join(rng.choice(parts, rng.integers(1, 8)))
        name = str(rng.choice(["cat", "{}", "{c}", "{{x}}", "}{"]))
        expected = template.replace("{}", "{c}") if "{{" not in template and "}}" not in template else None
        if expected is None:  # so that doubled braces beside a place are not taken for one
            expected = _places(template)
        assert wording.fill(template, name) == expected.format(c=name), template
    assert PLAIN.classes(["cat", "dog"], ["a {{icon}} of {c}"], len).prompts == [
        ["a {icon} of cat"],
        ["a {icon} of dog"],
    ]


def _places(template):
    """``{}`` as ``{c}``, by Python's own parser."""
    pieces = []
    for text, field, _, _ in string.Formatter().parse(template):
        pieces.append(text.replace("{", "{{").replace("}", "}}") + ("" if field is None else "{c}"))
    return "".join(pieces)


def test_an_empty_line_among_templates_is_an_empty_sentence_as_clip_benchmark_has_it(tmp_path, caplog):
    layouts.classification(tmp_path)
    lines(tmp_path / "zeroshot_classification_templates.txt", "a {c}", "", "the {c}")
    found = open_set("webdataset", tmp_path, "test", PLAIN).truth.classes
    assert found.prompts[0] == [f"a {found.names[0]}", "", f"the {found.names[0]}"]
    assert "the templates have an empty line, which counts as an empty sentence" in caplog.text
    lines(tmp_path / "zeroshot_classification_templates.txt", "", "")
    with pytest.raises(UserError, match="no templates"):
        open_set("webdataset", tmp_path, "test", PLAIN)


def test_classes_of_one_name_are_said(tmp_path, caplog):
    layouts.classification(tmp_path)
    open_set("webdataset", tmp_path, "test", PLAIN)
    assert "duplicate class names" not in caplog.text
    lines(tmp_path / "classnames.txt", *"abcdefga")
    open_set("webdataset", tmp_path, "test", PLAIN)
    assert "duplicate class names, which no model can distinguish: 'a'" in caplog.text
