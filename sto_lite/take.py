"""A trained network to take along: pictures in, classes and probabilities out (chapter 6).

The preprocessing is the training's: gray if the training images were, resized by the same antialiased interpolation,
normalised by the training set's mean and deviation. All of it stands in network.pt.
"""

import contextlib
import csv
import io
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sto_lite import resnet
from sto_lite.about import read_about
from sto_lite.checkpoints import damage_told, decode
from sto_lite.data import Batches, Split, resize
from sto_lite.errors import DataError, RunError, first_line, shown
from sto_lite.files import expand, read, visible
from sto_lite.sets import TITLES

if TYPE_CHECKING:
    from PIL.Image import Image

KINDS = ("png", "jpg", "jpeg", "bmp", "gif", "webp", "avif", "jfif", "tif", "tiff", "pgm", "ppm")
ENDINGS = tuple(f".{kind}" for kind in KINDS)
LARGEST = 512  # pixels; crops of faces are smaller, photographs of people are larger
OBLONG = 1.25  # longer side over shorter, up to which the middle square is taken
TOGETHER = 256  # pictures in a batch
CROP = "no face detector is shipped: crop one face, about square, with another program"


class Answer(NamedTuple):
    """What a network sees in a picture.

    picture: its path, or its number among the pictures. label: the most probable class. probability: of it.
    probabilities: of every class, in the network's order.
    """

    picture: str
    label: str
    probability: float
    probabilities: dict[str, float]


class TakenNetwork:
    """A trained network with what its file says of itself.

    network: in eval mode, on normalised images (N, 3, size, size). about: the description (about.py).
    """

    def __init__(self, network: nn.Module, about: dict[str, Any], path: Path):
        self.network, self.about, self.path = network, about, path
        self.classes: tuple[str, ...] = tuple(about["classes"])
        self.size: int = about["size"]
        self.mean, self.std = (torch.tensor(about["normalisation"][name]) for name in ("mean", "std"))

    @property
    def channels(self) -> int:
        """1 if it was trained on gray images, which are repeated to three; else 3."""
        return len(self.mean)

    @property
    def preprocessing(self) -> str:
        """What is done to a picture, in words."""
        mean, std = (" ".join(f"{v:.3f}" for v in values.tolist()) for values in (self.mean, self.std))
        colour = "gray" if self.channels == 1 else "colour"
        return (
            f"{colour}, the middle square, {self.size} x {self.size} pixels (antialiased bilinear), minus {mean}, "
            f"divided by {std}"
        )

    def predict(self, pictures: Any, any_size: bool = False) -> list[Answer]:
        """Classes and probabilities of pictures, in their order.

        Args:
            pictures: one or a sequence of paths, folders, PIL images, uint8 arrays (H, W) or (H, W, 3), or uint8
                tensors (C, H, W); or a tensor (N, C, H, W). A folder stands for the pictures in it, by name.
            any_size: take pictures that are oblong or larger than a crop of a face, too.

        Raises:
            DataError: a picture cannot be read, or looks like anything but a crop of a face.
        """
        return list(self.answers(pictures, any_size))

    def answers(
        self, pictures: Any, any_size: bool = False, refuse: Callable[[DataError], None] | None = None
    ) -> Iterator[Answer]:
        """`predict`, one by one: of a large folder only a batch is in memory.

        refuse: is given the error of a picture that cannot be taken, and the others go on; without it it is raised.
        """
        rows = _pictures(pictures)
        while part := list(islice(rows, TOGETHER)):
            names, pixels = [], []
            for name, picture in part:
                try:
                    pixels.append(self.pixels(picture, name, any_size))
                    names.append(name)
                except DataError as error:
                    if refuse is None:
                        raise
                    refuse(error)
            found = self.probabilities(torch.cat(pixels)).tolist() if pixels else []
            for name, row in zip(names, found, strict=True):
                best = max(range(len(row)), key=row.__getitem__)
                yield Answer(name, self.classes[best], row[best], dict(zip(self.classes, row, strict=True)))

    def pixels(self, picture: Any, name: str = "the picture", any_size: bool = False) -> Tensor:
        """One picture as (1, channels, size, size) uint8, as the training images were before normalisation.

        Args: as `predict`; name: for messages.
        """
        if isinstance(picture, str | Path):
            picture = _opened(expand(picture))
        if hasattr(picture, "convert") and hasattr(picture, "getbands"):
            check_shape(picture.width, picture.height, name, any_size)
            pixels = from_pil(picture, self.channels, name)
        else:
            pixels = _from_array(picture, name)
            check_shape(pixels.shape[-1], pixels.shape[-2], name, any_size)
            if pixels.shape[1] == 3 and self.channels == 1:
                from PIL import Image

                array = np.ascontiguousarray(pixels[0].permute(1, 2, 0).numpy())
                pixels = from_pil(Image.fromarray(array), 1, name)
        pixels = pixels.expand(-1, self.channels, -1, -1)
        return resize(middle_square(pixels), self.size)

    @torch.no_grad()
    def probabilities(self, pixels: Tensor) -> Tensor:
        """(N, channels, size, size) uint8 -> (N, classes): what the training's evaluation computes."""
        device = next(self.network.parameters()).device
        split = Split(pixels, torch.zeros(len(pixels), dtype=torch.long))
        batches = Batches(split, self.mean, self.std, TOGETHER, augment=False, device=device)
        return torch.cat([self.network(images).softmax(dim=1).cpu() for images, _ in batches.in_order()])

    def __repr__(self) -> str:
        data = self.about["data"]["name"]
        split, found = list(self.about["measured"].items())[-1]
        low, high = found["interval"]
        return (
            f"{self.about['protocol']['net']} by {self.about['method']['name']} on {TITLES.get(data, data)}, "
            f"{len(self.classes)} classes, {self.size} x {self.size} pixels; {split} error {found['error']:.2f} % "
            f"(95 % interval {low:.2f} to {high:.2f}, {found['images']} images)"
        )


def load(run: str | Path, device: torch.device | str = "cpu") -> TakenNetwork:
    """The network that a finished run has written, ready for pictures.

    Args:
        run: the run's folder, or its network.pt, which may have been copied elsewhere.
        device: where it computes.

    Raises:
        RunError: there is no finished run; the file is damaged, or too old to describe itself; there is no such
            device here.
    """
    path = expand(run)
    path = path / "network.pt" if path.is_dir() else path
    if not path.exists():
        remedy = "give the folder of a finished run, such as runs/first, or its network.pt"
        if (path.parent / "checkpoint.pt").exists():
            remedy = "this run is not finished; the command that began it goes on"
        raise RunError(f"there is no {path}: {remedy}")
    content = read(path)
    with damage_told(f"{path} holds no network that a run has written", "give network.pt of a finished run"):
        state = decode(content)
        about = read_about(state, path)
        network = resnet.build(state["net"], len(about["classes"]), generator=torch.Generator())
        network.load_state_dict(state["weights"])
        taken = TakenNetwork(network.eval(), about, path)
    try:
        network.to(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise RunError(f"device {str(device)!r} cannot be used here: {first_line(error)}") from error
    return taken


def check_shape(width: int, height: int, name: str, any_size: bool = False) -> None:
    """Refuse a picture that is unlikely to be a crop of one face. Raises DataError if it is far from square, or much
    larger.
    """
    if min(width, height) < 1:
        raise DataError(f"{name} has no pixels")
    if any_size:
        return
    if max(width, height) > OBLONG * min(width, height):
        raise DataError(
            f"{name} is {width} x {height} pixels, far from square, so it may hold several faces; {CROP} "
            f"(--any-size takes the middle square as it is)"
        )
    if max(width, height) > LARGEST:
        raise DataError(
            f"{name} is {width} x {height} pixels, much larger than a crop of a face, so it may hold several; {CROP} "
            f"to at most {LARGEST} x {LARGEST} (--any-size takes it as it is)"
        )


def _pictures(given: Any) -> Iterator[tuple[str, Any]]:
    """Each picture with its name; folders are opened up."""
    if isinstance(given, Tensor | np.ndarray) and given.ndim == 4:
        given = list(given)
    elif isinstance(given, str | Path | Tensor | np.ndarray) or not isinstance(given, Iterable):
        given = [given]
    for number, picture in enumerate(given):
        if not isinstance(picture, str | Path):
            yield f"picture {number}", picture
            continue
        path = expand(picture)
        if not path.is_dir():
            yield str(path), path
            continue
        try:
            next(path.iterdir(), None)
        except OSError as error:
            raise DataError(f"the folder {path} cannot be read: {error.strerror or error}") from error
        files = [p for p in visible(path, "*") if not p.is_dir()]
        found = [p for p in files if p.suffix.lower() in ENDINGS]
        if not found:
            raise DataError(f"the folder {path} holds no picture ({', '.join(ENDINGS)})")
        if len(files) > len(found):
            told = f"{len(files) - len(found)} files that are no pictures were not read"
            print(f"{path}: {told}", file=sys.stderr)
        yield from ((str(p), p) for p in found)


def _opened(path: Path) -> "Image":
    """A picture file, not decoded yet, so that its size can be looked at first."""
    from PIL import Image

    if not path.exists():
        raise DataError(f"there is no picture {path}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        return Image.open(io.BytesIO(content))
    except Image.DecompressionBombError as error:
        raise DataError(f"{path} is far larger than a crop of a face; {CROP}") from error
    except Exception as error:  # on foreign bytes Pillow raises errors of many kinds
        raise DataError(f"{path} is no picture that Pillow can read ({type(error).__name__})") from error


def middle_square(pixels: Tensor) -> Tensor:
    """(…, H, W) -> (…, S, S) with S the smaller of H and W."""
    height, width = pixels.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[..., top : top + side, left : left + side]


def from_pil(image: "Image", channels: int, name: str) -> Tensor:
    """(1, channels, H, W) uint8; turned as its EXIF says, on white where it is transparent."""
    from PIL import Image, ImageOps

    try:
        image.load()
        with contextlib.suppress(Exception):  # of many kinds, of a broken EXIF block: the pixels are sound
            image = ImageOps.exif_transpose(image)
        if image.mode.startswith(("I;16", "I", "F")):
            raise DataError(f"{name} has more than 8 bits a channel; save it with 8")
        if "A" in image.getbands() or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        array = np.array(image.convert("L" if channels == 1 else "RGB"))
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{name} is damaged ({shown(error) or type(error).__name__})") from error
    pixels = torch.from_numpy(array)
    return pixels[None, None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)[None]


def _from_array(picture: Any, name: str) -> Tensor:
    """(1, 1 or 3, H, W) uint8 of an array, channels last, or a tensor, channels first."""
    forms = "an array (H, W) or (H, W, 3), or a tensor (H, W) or (C, H, W) with C 1 or 3"
    if not isinstance(picture, np.ndarray | Tensor):
        raise DataError(f"{name} is a {type(picture).__name__}; give a path, a PIL image, {forms}")
    kind = str(picture.dtype).removeprefix("torch.")
    if kind != "uint8":
        raise DataError(f"{name} holds {kind}; give uint8, 0 to 255, as pictures have them")
    pixels = torch.from_numpy(picture.copy()) if isinstance(picture, np.ndarray) else picture.cpu()
    if pixels.dim() == 3 and isinstance(picture, np.ndarray):
        pixels = pixels.permute(2, 0, 1)
    pixels = pixels[None] if pixels.dim() == 2 else pixels
    if pixels.dim() != 3 or pixels.shape[0] not in (1, 3):
        raise DataError(f"{name} has the shape {tuple(picture.shape)}; give {forms}")
    return pixels[None]


def to_csv(answers: Sequence[Answer]) -> str:
    """Answers as a table: picture, label, probability, and a column for the probability of each class."""
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(["picture", "label", "probability", *(answers[0].probabilities if answers else ())])
    for a in answers:
        rows.writerow([a.picture, a.label, *(f"{p:.6f}" for p in (a.probability, *a.probabilities.values()))])
    return file.getvalue()
