"""What has a fixed name or number: the image sets with their splits, classes and sizes, and a step's arithmetic."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A published image set, as `prepare` brings it to disk and `data.load` loads it.

    name: of the command and of the prepared file, `name`.npz. title: as its authors call it.
    official: images of each split, "train" first and the split of the headline error last.
    shape: of one image as prepared, (H, W) for gray and (H, W, 3) for colour.
    called: the splits as its files call them. classes: label 0 first; empty if the prepared file alone names them.
    url, md5: of the archive, where anybody may download it.
    """

    name: str
    title: str
    official: Mapping[str, int]
    shape: tuple[int, ...]
    called: tuple[str, ...]
    classes: tuple[str, ...] = ()
    url: str = ""
    md5: str = ""

    @classmethod
    def own(cls, name: str) -> "Published":
        """Somebody's own set: its splits, classes and shape are what the prepared file says."""
        return cls(name, name, {}, (), ())

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits, "train" first."""
        return tuple(self.official)


# Goodfellow et al., "Challenges in representation learning", ICONIP 2013.
FER2013 = Published(
    name="fer2013",
    title="FER-2013",
    official={"train": 28_709, "public": 3_589, "private": 3_589},
    shape=(48, 48),
    called=("Training", "PublicTest", "PrivateTest"),
    classes=("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"),
)
# Li, Deng and Du, "Reliable crowdsourcing and deep locality-preserving learning", CVPR 2017; basic expressions.
RAFDB = Published(
    name="rafdb",
    title="RAF-DB",
    official={"train": 12_271, "test": 3_068},
    shape=(100, 100, 3),
    called=("train", "test"),
    classes=("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"),
)
# Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
CIFAR100 = Published(
    name="cifar100",
    title="CIFAR-100",
    official={"train": 50_000, "test": 10_000},
    shape=(32, 32, 3),
    called=("train", "test"),
    url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    md5="eb9058c3a382ffc7106e4002c42a8d85",  # as torchvision has it
)
PUBLISHED = {published.name: published for published in (FER2013, RAFDB, CIFAR100)}
DATA_SETS = ("faces", *PUBLISHED)  # what data.load takes
TITLES = {"faces": "synthetic faces", **{name: published.title for name, published in PUBLISHED.items()}}
PRECISIONS = ("float32", "bf16", "fp16")  # of a step's convolutions
