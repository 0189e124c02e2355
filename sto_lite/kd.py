"""Distillation in two stages, from a teacher that is trained beforehand (chapter 5)."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sto_lite import resnet
from sto_lite.about import read_about
from sto_lite.checkpoints import damage_told, decode
from sto_lite.errors import RunError
from sto_lite.files import expand, read
from sto_lite.losses import check_temperature, kd_loss
from sto_lite.methods import Step, plain_copy, summed
from sto_lite.own import is_own
from sto_lite.resnet import ResNet


class Taught(nn.Module):
    """A student and its teacher, which is trained already: it stays in eval mode and gets no gradient."""

    def __init__(self, student: ResNet, teacher: ResNet):
        super().__init__()
        self.student, self.teacher = student, teacher.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Taught":
        """Set the student's mode; the teacher keeps its own."""
        super().train(mode)
        self.teacher.eval()
        return self


@dataclass(frozen=True)
class KD:
    """Two-stage distillation (Hinton et al. 2015) from a teacher that is trained beforehand and stands still.

    The loss is CE + λ T² KL(teacher ‖ student), STO's Eq. 9 without a teacher that learns.

    teacher: network.pt of a finished run, or its folder. temperature: T. lam: λ. fingerprint, network: of the
    teacher's file and of what it holds; they are filled in, and stand in the record in place of the path.
    """

    name: ClassVar[str] = "kd"
    teacher: str = field(default="", metadata={"local": True})
    temperature: float = 3.0
    lam: float = 0.25
    fingerprint: str = field(default="", metadata={"filled": True})
    network: str = field(default="", metadata={"filled": True})

    def __post_init__(self) -> None:
        if not self.teacher:
            raise ValueError("method kd needs a teacher: the folder of a finished run, or its network.pt")
        check_temperature(self.temperature)
        content = self._file()
        digest = hashlib.sha256(content).hexdigest()[:16]
        if self.fingerprint not in ("", digest):
            told = f"its fingerprint is {digest}, not {self.fingerprint}"
            raise RunError(f"{self.teacher} is another teacher: {told}")
        object.__setattr__(self, "fingerprint", digest)
        object.__setattr__(self, "network", self._state(content)["net"])

    def _file(self) -> bytes:
        path = expand(self.teacher)
        path = path / "network.pt" if path.is_dir() else path
        if not path.exists():
            remedy = "give the folder of a finished run, or its network.pt"
            raise RunError(f"the teacher {path} cannot be read: there is no such file; {remedy}")
        return read(path)

    def _state(self, content: bytes) -> dict[str, Any]:
        what = f"{self.teacher} holds no network that a run has written"
        with damage_told(what, "give network.pt of a finished run"):
            state = decode(content)
            known = is_own(state["net"]) or state["net"] in resnet.NETWORKS
            if not known or not isinstance(state["weights"], dict):
                raise ValueError("no such network")
            return state

    def check_classes(self, classes: Sequence[str]) -> None:
        """Raise RunError if the teacher's file says that it was trained for other classes, or in another order."""
        state = self._state(self._file())
        had = read_about(state, expand(self.teacher))["classes"] if "about" in state else [*classes]
        if had != [*classes]:
            raise RunError(
                f"the teacher {self.teacher} was trained for the classes {', '.join(had)}, in this order, and this "
                f"data has {', '.join(classes)}: give one that was trained on the same data"
            )

    def build(self, net: str, num_classes: int, generator: torch.Generator | None = None) -> Taught:
        """The student, which starts from the baseline's weights, and the teacher from its file. Raises RunError if
        the teacher's network is for another number of classes.
        """
        student = resnet.build(net, num_classes, generator=generator)
        teacher = resnet.build(self.network, num_classes, generator=torch.Generator())
        what = f"{self.teacher} holds no {self.network} for {num_classes} classes"
        with damage_told(what, "give one that was trained on the same data"):
            teacher.load_state_dict(self._state(self._file())["weights"])
        return Taught(student, teacher)

    def step(
        self, model: Taught, images: Tensor, labels: Tensor, generator: torch.Generator, epoch: int = 0
    ) -> Step:
        """The student's cross-entropy, and its lesson."""
        student = model.student(images)
        with torch.no_grad():
            teacher = model.teacher(images)
        parts = {
            "student": F.cross_entropy(student, labels),
            "distillation": self.lam * kd_loss(student, teacher, self.temperature),
        }
        return summed(parts, student)

    def deploy(self, model: Taught) -> ResNet:
        """The student, as a copy in eval mode."""
        return plain_copy(model.student)
