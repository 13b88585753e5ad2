"""Small datasets of scenes in the layouts that evaluation reads."""

import io
import json
import tarfile

import numpy as np
from PIL import Image

from rankclip_jax.input_pipeline.scenes import CLASS_NAMES, Scenes

COUNT = 37  # which no batch divides


def scenes(count=COUNT, size=32):
    return Scenes("validation", count, size, seed=3)


def encoded(pixels, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def write_tars(folder, members, shards=3):
    """A split: for each sample its members by suffix, dealt out in order."""
    folder.mkdir(parents=True)
    (folder / "nshards.txt").write_text(str(shards))
    for shard, part in enumerate(np.array_split(np.arange(len(members)), shards)):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for number in part:
                for suffix, content in members[number].items():
                    info = tarfile.TarInfo(f"s{number:07d}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))


def array(values):
    """The bytes of a ``.npy``."""
    file = io.BytesIO()
    np.save(file, np.asarray(values, np.int64))
    return file.getvalue()


def classification(folder, classes=8):
    """Images with a label, ``label % classes`` of the scene's, and how many there are."""
    for split, seed in (("test", 0), ("train", 100)):
        drawn = scenes(COUNT + seed)
        labels = drawn.class_labels() % classes
        first = 0 if split == "test" else COUNT
        members = [
            {("png", "jpg", "webp")[index % 3]: encoded(drawn[index]["image"], ("PNG", "JPEG", "WEBP")[index % 3]),
             "cls": str(labels[index]).encode()}
            for index in range(first, first + COUNT + seed - first)
        ]  # fmt: skip
        write_tars(folder / split, members)
    (folder / "classnames.txt").write_text("\n".join(CLASS_NAMES[:classes]) + "\n")
    (folder / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\nthe {c}, drawn\n")
    (folder / "dataset_type.txt").write_text("classification")


def multilabel(folder, classes=6):
    drawn, members = scenes(), []
    for index in range(COUNT):
        labels = np.random.default_rng(index).integers(0, 2, classes)
        members.append({"png": encoded(drawn[index]["image"]), "npy": array(labels)})
    write_tars(folder / "test", members)
    (folder / "classnames.txt").write_text("\n".join(CLASS_NAMES[:classes]))
    (folder / "zeroshot_classification_templates.txt").write_text("a {c}")
    (folder / "dataset_type.txt").write_text("multilabel\n")


def captions(folder):
    """From one to four captions an image, all different."""
    drawn = scenes()
    members = [
        {"png": encoded(drawn[index]["image"]),
         "txt": "\n".join(f"{drawn[index]['text']}, {index} {number}" for number in range(1 + index % 4)).encode()}
        for index in range(COUNT)
    ]  # fmt: skip
    write_tars(folder / "test", members, shards=2)
    (folder / "dataset_type.txt").write_text("retrieval")


def sugar_crepe(folder):
    (folder / "images").mkdir(parents=True)
    drawn, entries = scenes(), {}
    for index in range(COUNT):
        Image.fromarray(drawn[index]["image"]).save(folder / "images" / f"{index}.png")
        right = drawn[index]["text"]
        entries[str(index)] = {"filename": f"{index}.png", "caption": right, "negative_caption": f"no {right}"}
    (folder / "swap_att.json").write_text(json.dumps(entries))


def winogavil(folder):
    (folder / "winogavil_images").mkdir(parents=True)
    drawn, lines = scenes(), ["cue,candidates,associations"]
    for index in range(COUNT):
        Image.fromarray(drawn[index]["image"]).save(folder / "winogavil_images" / f"n {index}.jpg")
    for row in range(9):
        names = [f"n {(5 * row + place * 3) % COUNT}" for place in range(5 + row % 2)]
        lists = [json.dumps(some).replace('"', '""') for some in (names, names[1 : 3 + row % 2])]
        lines.append(f'"{drawn[row]["text"].split()[-1]}","{lists[0]}","{lists[1]}"')
    (folder / "winogavil_dataset.csv").write_text("\n".join(lines))


def suite(path, *tasks):
    path.write_text(json.dumps({"name": "tests", "tasks": list(tasks)}))
    return path
