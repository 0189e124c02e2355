"""The oldest PyTorch that the module allows and the pinned one, on Python 3.11 and 3.12: tests, and chapter 6."""

import re
import shutil
from pathlib import Path

import nbformat

from tools import notebooks
from tools.entries import ROOT
from tools.proofs.alone import execute
from tools.proofs.places import ProofError, call, clean, environ

OLDEST = ("torch==2.11.*", "torchvision==0.26.*")
# What the tests of the module import; the book's tools stay out.
PACKAGES = ["pip", "numpy", "pillow", "scipy", "tqdm", "matplotlib", "seaborn", "pandas"]
PACKAGES += ["ipywidgets", "ipykernel", "nbclient", "pytest", "hypothesis"]
TESTS = ["data", "faces", "fused", "keeping", "losses", "methods", "peers", "plots", "resnet", "scale"]
TESTS += ["stats", "survival", "train"]
CASES = [(python, old) for python in ("3.11", "3.12") for old in (True, False)]


def pinned(name: str) -> str:
    """Return a package as requirements.txt pins it."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return next(line.split(";")[0].strip() for line in lines if line.startswith(f"{name}=="))


def interpreter(version: str) -> str:
    """Find a version of Python, with pyenv (whose shims are no Python) or on the PATH; uv may find others."""
    pyenv = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    return str(pyenv[-1]) if pyenv else shutil.which(f"python{version}") or version


def run(python: str, old: bool, folder: Path) -> int:
    """Run the module's fast tests, and chapter 6 at smoke scale, in a new environment; return how many tests passed.

    python: a version or a path. old: with the oldest PyTorch that is allowed, not the pinned one.
    """
    torch = OLDEST if old else (pinned("torch"), pinned("torchvision"))
    made = clean(folder / "environment", interpreter(python), (*torch, *PACKAGES))
    here = {"PYTHONPATH": str(ROOT)}
    files = [ROOT / "tests" / f"test_{name}.py" for name in TESTS]
    tests = call(
        [made, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files], cwd=ROOT, env=environ(made, here)
    )
    if tests.returncode:
        raise ProofError(tests.stdout[-5000:])
    path = folder / "06-sto.ipynb"
    nbformat.write(notebooks.newest(notebooks.BOOK / path.name), path)
    execute(path, made, here)
    passed = re.search(r"(\d+) passed", tests.stdout)
    return int(passed[1]) if passed else 0
