"""What the tests of prepare share: look-alikes of the sets, and folders, zips and tars made of names and bytes."""

import io
import pickle
import random
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sto_lite.errors import DataError
from sto_lite.intake import prepare
from sto_lite.sets import FER2013, RAFDB

# ------------------------------------------------------------------------------------------------ running it


def run(name, source, root, report=lambda text: None, own=None, **options):
    """Prepare a published set, or with `own` somebody's own; gives the path."""
    if own:
        return prepare.prepare_own(name, source, root, own, report)
    return prepare.prepare(name, source, root, report, **options)


def prepared(name, source, root, **options):
    """The arrays of the prepared file; beside it lies only its record."""
    path = run(name, source, root, **options)
    assert path == root / f"{name}.npz"
    assert {p.name for p in root.glob(f"{name}.*")} == {f"{name}.npz", f"{name}.json"}
    with np.load(path, allow_pickle=False) as npz:
        return dict(npz)


def refused(name, source, root, *parts, **options):
    """The source is refused in one printable line that has all `parts`, and `root` is not touched."""
    before = files_below(root)
    with pytest.raises(DataError) as caught:
        run(name, source, root, **options)
    message = str(caught.value)
    for part in parts:
        assert part in message, message
    assert "\n" not in message and message.isprintable() and len(message) < 1_000
    assert files_below(root) == before
    return message


def same(found, expected):
    """The arrays are equal, of equal types, and in the same order."""
    assert list(found) == list(expected)
    for key, array in expected.items():
        assert found[key].dtype == array.dtype, key
        np.testing.assert_array_equal(found[key], array, err_msg=key)


def stamps(folder):
    return {p: (p.lstat().st_size, p.lstat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


def files_below(folder: Path):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# ------------------------------------------------------------------------------------------------ packing


def zipped(path, files):
    path.write_bytes(zip_bytes(files, zipfile.ZIP_DEFLATED))
    return path


def zip_bytes(files, compression=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def tarred(path, files):
    """A tar of the kind that the path's suffix says."""
    kind = {".tar": "w", ".bz2": "w:bz2", ".xz": "w:xz"}.get(path.suffix, "w:gz")
    with tarfile.open(path, kind) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def written(folder: Path, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def packed(kind, path, files):
    """The files as a folder, a zip or a tar."""
    if kind == "folder":
        return written(path, files)
    return (zipped if kind == "zip" else tarred)(path.with_suffix(f".{kind}"), files)


def below(folder, files):
    return {f"{folder}/{name}": data for name, data in files.items()}


def without(files, part):
    return {name: data for name, data in files.items() if part not in name}


def shuffled(files, seed=1):
    names = list(files)
    random.Random(seed).shuffle(names)
    return {name: files[name] for name in names}


# ------------------------------------------------------------------------------------------------ images


def image(size=(48, 48), mode="L", colour=0, kind="PNG"):
    out = io.BytesIO()
    Image.new(mode, size, colour).save(out, kind)
    return out.getvalue()


def encoded(pixels, kind="PNG"):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def jpeg(seed=0, size=(100, 100), mode="RGB"):
    shape = (size[1], size[0], 3) if mode == "RGB" else size[::-1]
    return encoded(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8), "JPEG")


# ------------------------------------------------------------------------------------------------ FER-2013

FER_SIZES = {"train": 9, "public": 8, "private": 7}
USAGE = dict(zip(FER2013.splits, FER2013.called, strict=True))


def look_alike(seed=0):
    """Random pixels in place of faces; the labels of every split go through all seven classes."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for split, n in FER_SIZES.items():
        arrays[f"{split}_images"] = rng.integers(0, 256, (n, 48, 48), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(n, dtype=np.uint8) % 7
    return arrays


def rows_of(arrays):
    """(emotion, pixels, Usage) of every image."""
    return [
        (str(label), " ".join(map(str, pixels.ravel())), USAGE[split])
        for split in FER_SIZES
        for pixels, label in zip(arrays[f"{split}_images"], arrays[f"{split}_labels"], strict=True)
    ]


def as_csv(rows, header="emotion,pixels,Usage", end="\n"):
    return "".join(line + end for line in [header, *map(",".join, rows)]).encode()


def icml(rows):
    return as_csv([(e, u, p) for e, p, u in rows], "emotion, Usage, pixels")


def image_files(arrays, name=lambda split, i: f"{USAGE[split]}_{i:08d}.png", classes=FER2013.classes):
    """train/<class>/Training_*.png and test/<class>/{Public,Private}Test_*.png, in shuffled order."""
    files = {}
    for split in FER_SIZES:
        for i, pixels in enumerate(arrays[f"{split}_images"]):
            label = classes[arrays[f"{split}_labels"][i]]
            folder = "train" if split == "train" else "test"
            files[f"{folder}/{label}/{name(split, i)}"] = encoded(pixels)
    return shuffled(files)


FER = look_alike()
ROWS = rows_of(FER)
TABLE, IMAGES = as_csv(ROWS), image_files(FER)

# ------------------------------------------------------------------------------------------------ RAF-DB

LIST, ALIGNED = "EmoLabel/list_patition_label.txt", "Image/aligned/"
NUMBERS = {"train": (1, 2, 3, 9, 10, 11, 99, 100, 12271), "test": (1, 2, 3, 5, 8, 13, 21)}
# (split, number, official label, file) of every image, in the order of the numbers
ENTRIES = [
    (split, number, i % 7 + 1, jpeg(1000 * len(split) + number))
    for split, numbers in NUMBERS.items()
    for i, number in enumerate(numbers)
]


def official(entries=ENTRIES):
    """The layout as the authors deliver it, images unpacked, in no order."""
    lines = [f"{split}_{number:05d}.jpg {label}\n" for split, number, label, _ in entries]
    files = {f"{ALIGNED}{split}_{number:05d}_aligned.jpg": data for split, number, _, data in entries}
    return shuffled(files | {LIST: "".join(lines[::-1]).encode()})


def with_zip(files, folder="aligned/"):
    """The same with the aligned images in Image/aligned.zip."""
    images = {name.replace(ALIGNED, folder): data for name, data in files.items() if ALIGNED in name}
    images["__MACOSX/aligned/._x.jpg"] = b"\0"
    return without(files, ALIGNED) | {"Image/aligned.zip": zip_bytes(images)}


def kaggle(tables=False, test="test", line="{name},{label}", header="image,label", entries=ENTRIES):
    """The layout of the copies at Kaggle; the folder of the test images may be called otherwise."""
    names = {"train": "train", "test": test}
    files = {f"{names[s]}/{label}/{s}_{n:05d}_aligned.jpg": data for s, n, label, data in entries}
    for split in NUMBERS if tables else ():
        mine = [(f"{split}_{n:05d}_aligned.jpg", n, label) for s, n, label, _ in entries if s == split]
        rows = [line.format(name=name, label=label, i=n) for name, n, label in mine]
        files[f"{names[split]}_labels.csv"] = "\n".join([*([header] if header else []), *rows, ""]).encode()
    return shuffled(files)


def raf_arrays():
    arrays = {}
    for split in NUMBERS:
        mine = [(label, data) for s, _, label, data in ENTRIES if s == split]
        arrays[f"{split}_images"] = np.stack([np.asarray(Image.open(io.BytesIO(data))) for _, data in mine])
        arrays[f"{split}_labels"] = np.array([label - 1 for label, _ in mine], np.uint8)
    return arrays | {"classes": np.array(RAFDB.classes)}


RAF, WHOLE_RAF = raf_arrays(), official()

# ------------------------------------------------------------------------------------------------ CIFAR-100

HOME = "cifar-100-python"
THINGS = [f"thing_{a}{b}" for a in "abcdefghij" for b in "abcdefghij"]


def cifar_arrays(sizes):
    rng = np.random.default_rng(0)
    arrays = {}
    for split, n in sizes.items():
        arrays[f"{split}_images"] = rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(n) % 100).astype(np.uint8)
    return arrays | {"classes": np.array(THINGS)}


CIFAR = cifar_arrays({"train": 120, "test": 100})


def content(split, arrays=CIFAR):
    """What the pickle of a split holds."""
    planes = np.ascontiguousarray(arrays[f"{split}_images"].transpose(0, 3, 1, 2)).reshape(-1, 3072)
    labels = arrays[f"{split}_labels"].tolist()
    return {
        "filenames": [f"{split}_{i}.png" for i in range(len(labels))],
        "batch_label": f"{split}ing batch 1 of 1",
        "fine_labels": labels,
        "coarse_labels": [label // 5 for label in labels],
        "data": planes,
    }


def python2(value):
    """A pickle as Python 2 wrote the published files: protocol 2, and text that is bytes."""

    def of(value):
        if isinstance(value, str):
            return b"U" + struct.pack("<B", len(value)) + value.encode() + b"q\1"
        if isinstance(value, int):
            return b"J" + struct.pack("<i", value)
        if isinstance(value, list):
            return b"](" + b"".join(map(of, value)) + b"e"
        if isinstance(value, dict):
            return b"}(" + b"".join(of(key) + of(item) for key, item in value.items()) + b"u"
        raw = value.tobytes()
        dtype = b"cnumpy\ndtype\n(U\2u1K\0K\1tR(K\3U\1|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
        start = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0tU\1btR"
        shape = b"".join(map(of, value.shape))
        return start + b"(K\1(" + shape + b"t" + dtype + b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tb"

    return b"\x80\2" + of(value) + b"."


def cifar_files(write=python2, arrays=CIFAR):
    names = {"fine_label_names": THINGS, "coarse_label_names": ["things"]}
    return {split: write(content(split, arrays)) for split in ("train", "test")} | {"meta": write(names)}


PICKLES = cifar_files()


def changed(split, **entries):
    """The pickles with other entries in one of them."""
    return PICKLES | {split: pickle.dumps(content(split) | entries)}


SETS = {"fer2013": FER, "rafdb": RAF, "cifar100": CIFAR}  # what must come of a look-alike
SOURCES = {  # a set in each form that is read in its own way
    "a table": ("fer2013", {"fer2013.csv": TABLE}),
    "images": ("fer2013", IMAGES),
    "official images": ("rafdb", WHOLE_RAF),
    "an archive inside": ("rafdb", with_zip(WHOLE_RAF)),
    "pickles": ("cifar100", PICKLES),
}
