"""The trained networks behind figures of chapters 4 to 6; tools/chapter_networks.py trains them and writes records.

Each function takes a number of seeds, and gives the protocol, what is said of the data, and what was found.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations, product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sto_lite import data, faces, resnet, survival
from sto_lite.config import Config, plain
from sto_lite.losses import kd_loss
from sto_lite.methods import STO, Baseline, Method, Step, StochasticDepth, summed
from sto_lite.peers import DML, ONE, OKDDip, cross_entropies
from sto_lite.train import fit

CPU = torch.device("cpu")
Found = tuple[Config, dict[str, Any], dict[str, Any]]
FEAR = faces.EXPRESSIONS.index("fear")


def rounded(values: Tensor, digits: int = 2) -> list[Any]:
    """A tensor as nested lists of short numbers."""
    return values.double().round(decimals=digits).tolist()


# --------------------------------------------------------------------------------- chapter 4: a class never seen


def pixels_of(images: data.ImageSet, split: str) -> Tensor:
    """All images of a split, normalised, (N, 3, H, W)."""
    chosen = images.splits[split]
    whole = data.Batches(chosen, *images.mean_std, len(chosen), augment=False, device=CPU)
    return whole.normalise(chosen.images)


def taught(
    x: Tensor, y: Tensor, targets: Tensor, temperature: float | None, epochs: int, seed: int
) -> resnet.ResNet:
    """A ResNet-8 taught by the labels y (temperature None) or by softened targets; the same batches for all."""
    net = resnet.build("resnet8", 7, generator=torch.Generator().manual_seed(10 * seed + 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=epochs // 2)
    order = torch.Generator().manual_seed(10 * seed + 2)
    for _ in range(epochs):
        for chosen in torch.randperm(len(x), generator=order).split(32):
            z = net(x[chosen])
            hard = temperature is None
            loss = F.cross_entropy(z, y[chosen]) if hard else kd_loss(z, targets[chosen], temperature or 1.0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    return net.eval()


def fear_score(z: Tensor) -> Tensor:
    """Log-odds of fear: (N, 7) logits -> (N,)."""
    others = torch.cat([z[:, :FEAR], z[:, FEAR + 1 :]], dim=1)
    return z[:, FEAR] - others.logsumexp(dim=1)


def graded(z: Tensor, labels: Tensor) -> dict[str, float]:
    """What a network knows of fear: how it ranks, what it calls fear, and what it finds once its bias is raised."""
    is_fear, score = labels == FEAR, fear_score(z)
    best_other = z.index_fill(1, torch.tensor([FEAR]), -torch.inf).amax(1)
    needed = (best_other - z[:, FEAR]).double().quantile(is_fear.double().mean())
    raised = z[:, FEAR] + needed > best_other
    return {
        "auc": 100 * (score[is_fear][:, None] > score[~is_fear]).double().mean().item(),
        "right": 100 * (z.argmax(1) == FEAR)[is_fear].double().mean().item(),
        "raised_by": needed.item(),
        "right_raised": 100 * raised[is_fear].double().mean().item(),
    }


def distillation(seeds: int) -> Found:
    """What a converged teacher says of the test faces, and what students do that never saw fear."""
    images = data.load("faces", size=24, difficulty=0.5)
    config = Config("resnet14", 20, batch_size=32, lr=0.05, augment=False, evaluate_every=20)
    teacher: Any
    teacher, record = fit(Baseline(), images, config, device=CPU, progress=False)
    x, x_test = pixels_of(images, "train"), pixels_of(images, "test")
    labels, y = images.splits["test"].labels, images.splits["train"].labels
    with torch.no_grad():
        targets = torch.cat([teacher(part) for part in x.split(500)])
        said = teacher(x_test)
        shortened = teacher(x_test, [0.0] + [1.0] * (teacher.num_blocks - 1))
    seen, epochs, students = y != FEAR, 12, []
    for seed, temperature in product(range(seeds), (None, 1.0, 3.0, 20.0)):
        net = taught(x[seen], y[seen], targets[seen], temperature, epochs, seed)
        with torch.no_grad():
            z = net(x_test)
        known = {"temperature": temperature, "seed": seed, **graded(z, labels)}
        students.append(known | ({"score": rounded(fear_score(z))} if seed == 0 else {}))
        print(f"{temperature} seed {seed}: AUC {known['auc']:.1f} %", flush=True)
    told = {"difficulty": 0.5, "missing": "fear", "student": "resnet8", "student_epochs": epochs}
    found = {
        "teacher": {"error": record["result"]["test"]["error"], **graded(said, labels)},
        "logits": rounded(said),
        "shortened": rounded(shortened),
        "students": students,
    }
    return config, record["data"] | told, found


# ------------------------------------------------------------------------------------ chapter 5: do peers grow alike


class Alone(DML):
    """Three networks side by side, without any lesson: the yardstick."""

    name = "alone"

    def step(
        self, model: nn.ModuleList, images: Tensor, labels: Tensor, generator: torch.Generator, epoch: int = 0
    ) -> Step:
        """The sum of their cross-entropies."""
        logits = torch.stack([net(images) for net in model], dim=1)
        return summed({"networks": cross_entropies(logits, labels)}, logits[:, 0])


@torch.no_grad()
def members(method: Method, model: Any, x: Tensor) -> Tensor:
    """Logits (N, 3, C) of three who teach one another; each normalises with the batch in front of it."""
    model = copy.deepcopy(model).train()
    if isinstance(method, STO):  # three sub-networks, the same in every epoch
        p, dice = method.survival(model), torch.Generator().manual_seed(5)
        return torch.stack([model(x, survival.sample(p, dice)) for _ in range(3)], dim=1)
    if isinstance(method, DML):
        return torch.stack([net(x) for net in model], dim=1)
    return model(x)[0]  # of ONE and OKDDip


def likeness(logits: Tensor, labels: Tensor) -> list[float]:
    """Means over the members: disagreement (%), KL (nats), error (%); then the error of their mean prediction."""
    log_p, said = logits.log_softmax(2), logits.argmax(2)
    pairs = list(permutations(range(3), 2))
    differ = sum((said[:, i] != said[:, j]).float().mean() for i, j in pairs) / len(pairs)
    kl = sum((log_p[:, i].exp() * (log_p[:, i] - log_p[:, j])).sum(1).mean() for i, j in pairs) / len(pairs)
    wrong = (said != labels[:, None]).float().mean()
    together = (log_p.exp().mean(1).argmax(1) != labels).float().mean()
    return [100 * float(differ), float(kl), 100 * float(wrong), 100 * float(together)]


def watched(method: Any, look: Callable[[nn.Module], None]) -> Method:
    """The same method; `fit` calls deploy before training and after every epoch, and there it is looked at."""

    class Watched(type(method)):  # type: ignore[misc]
        def deploy(self, model: nn.Module) -> nn.Module:
            look(model)
            return super().deploy(model)

    return Watched(**plain(method))


def peers(seeds: int) -> Found:
    """After every epoch, how far those who teach one another differ."""
    epochs, columns = 8, ("disagreement", "kl", "error", "together")
    images = data.load("faces", size=16, difficulty=0.5, limit=800)
    test = data.Split(images.splits["test"].images[:500], images.splits["test"].labels[:500])
    images = data.ImageSet("faces", images.classes, {"train": images.splits["train"], "test": test})
    x, labels = pixels_of(images, "test"), test.labels
    config = Config("resnet8", epochs, batch_size=32, lr=0.05, augment=False)
    ramp, curves, told = round(80 / 300 * epochs), [], {}
    methods: tuple[Method, ...] = (Alone(), DML(), ONE(ramp=ramp), OKDDip(ramp=ramp), STO())
    for seed, method in product(range(seeds), methods):
        seen: list[list[float]] = []

        def look(model: Any, method: Method = method, seen: list[list[float]] = seen) -> None:
            seen.append(likeness(members(method, model, x), labels))

        one = replace(config, seed=seed)
        record = fit(watched(method, look), images, one, device=CPU, progress=False).record
        curve = {"method": method.name, "seed": seed, "deployed_error": record["result"]["test"]["error"]}
        found = zip(columns, map(rounded, torch.tensor(seen).T), strict=True)
        curves.append({**curve, **dict(found)})
        told = record["data"]
        print(f"{method.name} seed {seed}: {[round(v, 2) for v in seen[-1]]}", flush=True)
    return config, told | {"difficulty": 0.5}, {"ramp": ramp, "curves": curves}


# ------------------------------------------------------------------------------- chapter 6: are the students any good


@torch.no_grad()
def student_errors(network: Any, x: Tensor, labels: Tensor, scaled: bool) -> list[float]:
    """Test error (%) of all eight students of three blocks, 111 first; scaled: block l holds p_l f_l.

    Each normalises with the batch in front of it, as in training.
    """
    p, codes = survival.linear_decay(3), sorted(product((1.0, 0.0), repeat=3), key=lambda b: -sum(b))
    network = copy.deepcopy(network).train()
    said = [network(x, torch.tensor(b) / (p if scaled else 1)).argmax(1) for b in codes]
    return [100 * float((z != labels).float().mean()) for z in said]


def students(seeds: int) -> Found:
    """The errors of all eight students of networks that were trained in three ways."""
    images = data.load("faces", size=20, difficulty=0.5, limit=1500)
    config = Config("resnet8", 10, batch_size=32, lr=0.05, augment=False, evaluate_every=10)
    x, labels, curves, told = pixels_of(images, "test"), images.splits["test"].labels, [], {}
    methods: tuple[Method, ...] = (Baseline(), StochasticDepth(), STO())
    for seed, method in product(range(seeds), methods):
        net, record = fit(method, images, replace(config, seed=seed), device=CPU, progress=False)
        told, error = record["data"], record["result"]["test"]["error"]
        errors = student_errors(net, x, labels, scaled=method.name != "baseline")
        curves.append({"method": method.name, "seed": seed, "deployed": error, "errors": errors})
        print(f"{method.name} seed {seed}: {error} {[round(e) for e in errors]}", flush=True)
    return config, told | {"difficulty": 0.5}, {"errors": curves}
