"""Images are turned as Pillow turns them, and by nothing that is odd in their metadata."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin, features

from rankclip_jax.input_pipeline import images
from tests.fuzz.images import VIEWS

SMALL = np.random.default_rng(0).integers(0, 256, (5, 8, 3)).astype(np.uint8)
PICTURE = Image.fromarray(SMALL).resize((96, 60), Image.Resampling.BICUBIC)


def encoded(form, **options):
    file = io.BytesIO()
    PICTURE.save(file, form, **options)
    return file.getvalue()


def exif(*entries, order="<", offset=8):
    """Of entries (tag, type, count, four bytes)."""
    head = struct.pack(order + "2sHI", {"<": b"II", ">": b"MM"}[order], 42, offset)
    body = b"".join(struct.pack(order + "HHI", *entry[:3]) + entry[3].ljust(4, b"\0") for entry in entries)
    return head + struct.pack(order + "H", len(entries)) + body + bytes(4)


def text(key, value, packed):
    info = PngImagePlugin.PngInfo()
    info.add_text(key, value, zip=packed)
    return info


def international(key, value, packed):
    info = PngImagePlugin.PngInfo()
    info.add_itxt(key, value, zip=packed)
    return info


def profile(content):
    return f"\nexif\n{len(content):8d}\n{content.hex()}\n"


def xmp(orientation):
    return f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'


def of_pillow(orientation):
    tags = Image.Exif()
    tags[0x0112], tags[0x010F] = orientation, "a maker"
    return tags


WELL_FORMED = {
    "JPEG": lambda o: encoded("JPEG", exif=of_pillow(o)),
    "JPEG big-endian": lambda o: encoded("JPEG", exif=b"Exif\0\0" + exif((0x112, 3, 1, bytes([0, o])), order=">")),
    "JPEG, of several pictures": lambda o: encoded("MPO", save_all=True, append_images=[PICTURE], exif=of_pillow(o)),
    "JPEG, XMP": lambda o: encoded("JPEG", xmp=xmp(o).encode()),
    "JPEG, LONG": lambda o: encoded("JPEG", exif=b"Exif\0\0" + exif((0x112, 4, 1, bytes([o])))),
    "PNG": lambda o: encoded("PNG", exif=of_pillow(o)),
    "PNG, zTXt": lambda o: encoded("PNG", pnginfo=text("Raw profile type exif", profile(of_pillow(o).tobytes()), True)),
    "PNG, tEXt": lambda o: encoded(
        "PNG", pnginfo=text("Raw profile type exif", profile(of_pillow(o).tobytes()), False)
    ),
    "PNG, iTXt": lambda o: encoded(
        "PNG", pnginfo=international("Raw profile type exif", profile(of_pillow(o).tobytes()), True)
    ),
    "PNG, XMP": lambda o: encoded("PNG", pnginfo=international("XML:com.adobe.xmp", xmp(o), o % 2 == 0)),
    "WebP": lambda o: encoded("WEBP", lossless=True, exif=of_pillow(o)),
    "WebP, XMP": lambda o: encoded("WEBP", xmp=xmp(o).encode()),
    "TIFF": lambda o: encoded("TIFF", exif=of_pillow(o)),
    "TIFF, LZW": lambda o: encoded("TIFF", exif=of_pillow(o), compression="tiff_lzw"),
    "TIFF, JPEG": lambda o: encoded("TIFF", exif=of_pillow(o), compression="jpeg"),
    "BigTIFF": lambda o: encoded("TIFF", exif=of_pillow(o), big_tiff=True),
}
if features.check("avif"):
    WELL_FORMED["AVIF"] = lambda o: encoded("AVIF", exif=of_pillow(o))


@pytest.mark.parametrize("form", WELL_FORMED)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_well_formed_file_is_turned_as_pillow_turns_it_in_every_view(form, orientation):
    content = WELL_FORMED[form](orientation)
    with Image.open(io.BytesIO(content)) as opened:
        expected = ImageOps.exif_transpose(opened)
    ours = images.open_image(content)
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(expected))
    np.testing.assert_array_equal(np.asarray(images.as_opened(Image.open(io.BytesIO(content)))), np.asarray(expected))
    picture = images.open_picture(content)
    assert (picture.width, picture.height) == expected.size
    assert images.check(content) == expected.size
    np.testing.assert_array_equal(images.centre_view(picture, 32), images.evaluation_view(expected, 32))
    box = (10, 4, 58, 52)
    cut = np.asarray(expected.resize((24, 24), Image.Resampling.BICUBIC, box=box)).astype(int)
    assert np.abs(picture.view(box, (24, 24)) - cut).mean() < 3
    shrunk = images.decode(images.shrink(content, 30, 95))
    assert np.abs(np.asarray(shrunk).astype(int) - expected.resize(shrunk.size, Image.Resampling.BICUBIC)).mean() < 4


RIGHT = (0x112, 3, 1, b"\6")
ODD = {
    "YCbCrPositioning as ASCII": (0x213, 2, 2, b"1\0"),
    "Make as RATIONAL": (0x10F, 5, 1, b"\x08"),
    "Software as FLOAT": (0x131, 11, 1, b"\0\0\x80\x3f"),
    "ResolutionUnit as ASCII": (0x128, 2, 2, b"2\0"),
    "ImageWidth -1": (0x100, 9, 1, b"\xff\xff\xff\xff"),
    "XResolution as ASCII": (0x11A, 2, 2, b"72"),
    "an offset beyond the end": (0x10F, 2, 100, b"\xff\xff\xff\x7f"),
    "an offset of 4 GiB": (0x8769, 4, 1, b"\xff\xff\xff\xff"),
    "a directory that holds itself": (0x8769, 4, 1, b"\x08"),
    "values without end": (0x10F, 1, 2**32 - 1, b"\x08"),
    "a type that does not exist": (0x10F, 77, 1, b"\1"),
    "no values": (0x11A, 5, 0, b""),
    "a name that is not text": (0x131, 2, 4, b"\xff\xfe\xfd\xfc"),
}
NONE = {
    "a header alone": exif()[:8],
    "no header": b"odd",
    "nothing": b"",
    "a negative offset": exif(RIGHT, offset=2**32 - 8),
    "an offset beyond the end": exif(RIGHT, offset=10**6),
    "entries that are cut off": exif(RIGHT)[:14],
    "another number than 42": exif(RIGHT).replace(b"II*", b"II\7"),
    "orientation 0": exif((0x112, 3, 1, b"\0")),
    "orientation 9": exif((0x112, 3, 1, b"\x09")),
    "orientation of two values": exif((0x112, 3, 2, b"\6\0\6")),
    "orientation without values": exif((0x112, 3, 0, b"\6")),
    "orientation as ASCII": exif((0x112, 2, 2, b"6")),
    "orientation as RATIONAL": exif((0x112, 5, 1, b"\6")),
}
CONTAINERS = {
    "JPEG": lambda content: encoded("JPEG", exif=b"Exif\0\0" + content),
    "PNG": lambda content: encoded("PNG", exif=content),
    "PNG, text": lambda content: encoded("PNG", pnginfo=text("Raw profile type exif", profile(content), True)),
    "PNG, broken text": lambda content: encoded("PNG", pnginfo=text("Raw profile type exif", content.hex(), False)),
    "WebP": lambda content: encoded("WEBP", lossless=True, exif=content),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("container", [name for name in CONTAINERS if name != "PNG, broken text"])
@pytest.mark.parametrize("odd", ODD)
def test_a_tag_that_is_odd_changes_nothing_but_the_orientation_counts(container, odd):
    for entries in ((ODD[odd], RIGHT), (RIGHT, ODD[odd])):
        content = CONTAINERS[container](exif(*entries))
        plain = np.asarray(images.open_image(encoded(*plain_of(container))))
        for view in VIEWS.values():
            view(content)
        np.testing.assert_array_equal(np.asarray(images.open_image(content)), np.rot90(plain, -1))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("broken", NONE)
def test_metadata_that_is_broken_says_nothing(container, broken):
    content = CONTAINERS[container](NONE[broken])
    for view in VIEWS.values():
        view(content)
    plain = images.open_image(encoded(*plain_of(container)))
    np.testing.assert_array_equal(np.asarray(images.open_image(content)), np.asarray(plain))


def plain_of(container):
    return [{"JPEG": "JPEG", "WebP": "PNG"}.get(container, "PNG")]  # lossless, so that a PNG has the same pixels


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("odd", sorted(set(ODD) - {"YCbCrPositioning as ASCII", "ImageWidth -1"}))
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_a_tag_of_tiff_that_does_not_say_how_pixels_are_stored_may_be_odd(odd, compression):
    content = encoded("TIFF", compression=compression)
    (place,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, place)
    entries = {}
    for start in range(place + 2, place + 2 + 12 * count, 12):
        entries[struct.unpack_from("<H", content, start)[0]] = content[start : start + 12]
    for tag, kind, values, value in (ODD[odd], RIGHT):
        entries[tag] = struct.pack("<HHI", tag, kind, values) + value.ljust(4, b"\0")
    directory = struct.pack("<H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    changed = content[:4] + struct.pack("<I", len(content)) + content[8:] + directory
    for view in VIEWS.values():
        view(changed)
    np.testing.assert_array_equal(np.asarray(images.open_image(changed)), np.rot90(np.asarray(PICTURE), -1))


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow decodes no AVIF")
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("odd", [*ODD, *NONE])
def test_avif_is_turned_by_its_own_properties_whatever_its_exif_says(odd):
    tags = of_pillow(6)
    tags[0x010F] = "x" * 300
    content, exif_ = encoded("AVIF", exif=tags), tags.tobytes().removeprefix(b"Exif\0\0")
    changed = exif((0x112, 3, 1, b"\3"), ODD[odd]) if odd in ODD else NONE[odd]
    assert exif_ in content
    changed = content.replace(exif_, changed.ljust(len(exif_), b"\0"))
    for view in VIEWS.values():
        view(changed)
    expected = images.open_image(content)
    assert expected.size == PICTURE.size[::-1]
    np.testing.assert_array_equal(np.asarray(images.open_image(changed)), np.asarray(expected))
