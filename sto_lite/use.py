"""The commands that use a trained network: predict, card, plot and export (chapter 6).

As in options.py, a field is an option and its line in the docstring is the option's help; nothing heavy is imported
before a command runs.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sto_lite.errors import DataError, RunError, shown
from sto_lite.experiments.paper import EXPERIMENTS, find
from sto_lite.files import save

if TYPE_CHECKING:
    from sto_lite.take import TakenNetwork


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Say what a trained network sees in pictures.

    Takes crops of faces, one face a picture and about square, since no face detector is shipped. They are prepared as
    the training images were, and a line says how; then come the class and its probability for each picture. One that
    cannot be taken is told, and the others go on.

    run: folder of a finished run, or its network.pt.
    pictures: picture files, or folders of them.
    draw: draw so many synthetic faces that it was not trained on into RUN/faces, and take them.
    csv: file to write, with the probability of every class.
    any_size: take pictures that are oblong or larger than a crop of a face, too.
    device: cpu, cuda, cuda:1 …; without it the CPU.
    """

    run: Path
    pictures: tuple[Path, ...]
    draw: int | None = None
    csv: Path | None = None
    any_size: bool = False
    device: str | None = None


def predict(options: argparse.Namespace) -> int:
    """Print what a network sees in pictures, or write it as CSV; 2 if it could not take one of them."""
    from sto_lite.take import ENDINGS, load, to_csv

    if options.csv and options.csv.suffix.lower() in ENDINGS:
        raise ValueError(f"--csv names the table that is written, and {options.csv} is called like a picture")
    taken = load(options.run, options.device or "cpu")
    pictures = list(options.pictures)
    if options.draw is not None:
        pictures += draw_faces(taken, options.draw)
    if not pictures:
        raise ValueError("say which pictures, or --draw 7 for synthetic faces that it was not trained on")
    print(f"network: {taken}", file=sys.stderr)
    print(f"preprocessing, as in training: {taken.preprocessing}", file=sys.stderr)
    if taken.about["data"]["name"] == "faces":
        print("it was trained on drawn faces; on photographs its error is not known", file=sys.stderr)
    refused: list[DataError] = []

    def refuse(error: DataError) -> None:
        refused.append(error)
        print(f"sto_lite predict: {error}", file=sys.stderr)

    answers = taken.answers(pictures, options.any_size, refuse)
    if options.csv and (table := list(answers)):
        save(options.csv, to_csv(table).encode(errors="backslashreplace"))
        print(f"{len(table)} pictures: {options.csv}")
    for answer in answers:
        ranked = sorted(answer.probabilities.items(), key=lambda item: -item[1])[1:3]
        others = ", ".join(f"{label} {100 * probability:.1f} %" for label, probability in ranked)
        name = shown(answer.picture, 4096)
        print(f"{name}: {answer.label} {100 * answer.probability:.1f} % ({others})")
    return 2 if refused else 0


def draw_faces(taken: "TakenNetwork", count: int) -> list[Path]:
    """Synthetic faces of the training's kind that were not among its images, each named by its expression."""
    import io

    from PIL import Image

    from sto_lite.faces import EXPRESSIONS, generate

    if count < 1:
        raise ValueError(f"--draw takes 1 face or more, not {count}")
    data = taken.about["data"]
    if data["name"] != "faces":
        raise DataError(f"--draw is for networks of synthetic faces; this one was trained on {data['name']}")
    # Seeds 1 and 2 are the set's.
    images, labels = generate(count, taken.size, seed=3, difficulty=data.get("difficulty", 1.0))
    paths = []
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        path = taken.path.parent / "faces" / f"{number:03d}-{EXPRESSIONS[label]}.png"
        file = io.BytesIO()
        Image.fromarray(image[0].numpy()).save(file, "PNG")
        save(path, file.getvalue())
        paths.append(path)
    return paths


@dataclass(frozen=True, kw_only=True)
class Card:
    """Write a trained network's model card.

    Says what the network is for and not for, its data and who is in them, and its errors by class with intervals,
    from what its file says of itself; it says what is not known.

    run: folder of a finished run, or its network.pt.
    out: Markdown file to write; without it the card is printed.
    """

    run: Path
    out: Path | None = None


def card(options: argparse.Namespace) -> None:
    """Print a network's model card, or write it."""
    from sto_lite.card import card as filled
    from sto_lite.take import load

    taken = load(options.run)
    text = filled(taken.about, taken.preprocessing)
    if options.out:
        save(options.out, text.encode())
        print(f"model card: {options.out}")
    else:
        print(text, end="")


@dataclass(frozen=True, kw_only=True)
class Plot:
    """Draw finished runs: curves, confusion matrices, errors by class; or an experiment's curves and gains.

    Several runs are compared in one figure, with intervals from the choice of the test images; an experiment's rows
    by the means over their seeds, with the intervals of its table. Prints the paths of the files.

    runs: folders of finished runs, or record files; or one experiment, as for table.
    records: of an experiment, as for table.
    out: folder for the figures; without it plots in the run's folder, or here for several.
    format: of the files.
    """

    runs: tuple[Path, ...]
    records: tuple[Path, ...] | None = None
    out: Path | None = None
    format: Literal["png", "svg", "pdf"] = "png"


def plot(options: argparse.Namespace) -> None:
    """Draw runs into files, and print the files' paths."""
    from sto_lite.compare import draw, draw_table, read_runs

    if not options.runs:
        raise ValueError("say which runs, such as runs/first")
    named = str(options.runs[0])
    own = ":" in named and not options.runs[0].exists()  # a folder may have a colon too
    if len(options.runs) == 1 and (named in EXPERIMENTS or own or named.endswith(".toml")):
        from sto_lite import records
        from sto_lite.experiments import tables

        made = tables.tables(find(named), records.read_runs(options.records))
        if not made:
            raise RunError(f"no record belongs to {named}; python -m sto_lite run {named} makes some")
        print(f"protocol: {made[0].protocol}", file=sys.stderr)
        for path in draw_table(made[0], options.out or Path("plots"), options.format):
            print(path)
        return
    alone = options.runs[0] if len(options.runs) == 1 and options.runs[0].is_dir() else Path()
    for path in draw(read_runs(options.runs), options.out or alone / "plots", options.format):
        print(path)


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a trained network for use without PyTorch.

    The teacher of Eq. 5 as a plain network, with the normalisation inside and any number of pictures at a time; its
    model card is written beside it. Pictures come as uint8, resized to the network's size. Needs onnx and onnxscript
    (the extra "export").

    run: folder of a finished run, or its network.pt.
    onnx: ONNX file to write.
    """

    run: Path
    onnx: Path | None = None


def export(options: argparse.Namespace) -> None:
    """Write a network as ONNX, and its card beside it."""
    from sto_lite.card import card as filled
    from sto_lite.export import to_onnx
    from sto_lite.take import load

    if options.onnx is None:
        raise ValueError("say which file, such as --onnx network.onnx")
    taken = load(options.run)
    save(options.onnx, to_onnx(taken))
    beside = options.onnx.with_suffix(".card.md")
    save(beside, filled(taken.about, taken.preprocessing).encode())
    shape = f"(N, {taken.channels}, {taken.size}, {taken.size})"
    print(f"{options.onnx}: images uint8 {shape} -> logits, probabilities (N, {len(taken.classes)})")
    print(f"model card: {beside}")


USES = (Predict, Card, Plot, Export)
COMMANDS = {"predict": predict, "card": card, "plot": plot, "export": export}
