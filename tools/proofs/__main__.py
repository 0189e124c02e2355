"""Run the proofs: ``python -m tools.proofs [alone] [lab] [hub] [versions] [--chapters NN …]``."""

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from sto_lite.errors import print_anything
from tools import notebooks
from tools.browser import MissingError
from tools.proofs import alone, hub, lab, versions
from tools.proofs.places import ProofError, Published, clean, publish

PARTS = {
    "alone": "each notebook by itself, as on Colab",
    "lab": "JupyterLab in a browser: each chapter, and its sliders",
    "hub": "a JupyterHub that fetches the book by a link",
    "versions": "PyTorch 2.11 and the pinned one, on Python 3.11 and 3.12",
}
Proof = tuple[str, str, Callable[[], float]]  # what is proved, what is counted, and how


def proofs(part: str, names: list[str], published: Published, folder: Path) -> Iterator[Proof]:
    """The proofs of one part; each returns what it counted."""
    if part == "alone":
        python = clean(folder / "environment")
        for name in names:
            yield name, "seconds", partial(alone.run, published, name, python, folder / name[:2])
    elif part == "lab":
        for name in names:
            yield name, "figures that answer", partial(lab.run, published, name, folder / name[:2])
    elif part == "hub":
        yield names[-1], "figures that answer", partial(hub.run, published, names[-1], folder / "hub")
    else:
        for python_version, old in versions.CASES:
            case = f"Python {python_version}, {'oldest' if old else 'pinned'} PyTorch"
            yield case, "tests", partial(versions.run, python_version, old, folder / case.replace(" ", "-"))


def main() -> int:
    """Run what was asked for; return the exit status, 1 if anything failed."""
    print_anything()
    parser = argparse.ArgumentParser(prog="python -m tools.proofs", description="Prove that notebooks run.")
    parts = "; ".join(f"{part}: {what}" for part, what in PARTS.items())
    parser.add_argument("parts", nargs="*", metavar="PART", help=parts)
    parser.add_argument("--chapters", nargs="+", default=(), metavar="NN", help="default: all")
    options = parser.parse_args()
    if wrong := sorted({*options.parts} - {*PARTS}):
        parser.error(f"there is no part {', '.join(wrong)}; there are {', '.join(PARTS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are stopped
    names = [path.name for path in notebooks.chapters(options.chapters)]
    failed = 0
    with tempfile.TemporaryDirectory(prefix="proofs-") as temporary:
        published = publish(Path(temporary) / "published")
        for part in options.parts or PARTS:
            folder = Path(temporary) / part
            folder.mkdir()
            try:
                for what, unit, prove in proofs(part, names, published, folder):
                    begun = time.monotonic()
                    try:
                        said = f"works ({prove():.0f} {unit})"
                    except ProofError as error:
                        failed, said = failed + 1, f"FAILED: {error}"
                    except MissingError as error:
                        said = f"skipped: {error}"
                    print(f"{part}, {what}, {time.monotonic() - begun:.0f} s: {said}", flush=True)
            except MissingError as error:
                print(f"{part}: skipped: {error}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
