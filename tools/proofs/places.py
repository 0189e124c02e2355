"""What the proofs stand on: a published copy of the repository, environments, and servers that stop."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from tools import notebooks
from tools.address import git
from tools.browser import MissingError
from tools.entries import ROOT
from tools.setup_cell import place

URL = "https://github.com/owner/student-teacher-oneness"  # git is told to look for it on this machine
# What Colab has of what the notebooks use; a hub's image has it too.
PRESENT = ("torch", "torchvision", "numpy", "matplotlib", "seaborn", "pandas", "ipywidgets", "ipykernel")
TOOLS = ("nbclient", "pip")  # which run the notebook, and install from it


class ProofError(Exception):
    """Something did not work where a runner would be."""


@dataclass(frozen=True)
class Published:
    """The repository as it lies on disk: bare, for URL, to which the config leads git; and checked out, the tree."""

    git: Path
    config: Path
    tree: Path

    @property
    def env(self) -> dict[str, str]:
        """Environment variables with which git finds the copy when it is asked for URL."""
        return {"GIT_CONFIG_GLOBAL": str(self.config), "GIT_TERMINAL_PROMPT": "0"}

    def notebook(self, name: str, folder: Path) -> Path:
        """Put one notebook, and nothing else, into a new folder, as a reader gets it on Colab."""
        folder.mkdir(parents=True)
        path = folder / name
        path.write_text(git("--git-dir", self.git, "show", f"HEAD:book/{name}"))
        return path

    def explorations(self, name: str) -> int:
        """How many figures with sliders or menus a notebook makes."""
        cells = json.loads((self.tree / "book" / name).read_text())["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        return sum(source.count("plots.explore(") for source in code)


def call(command: Sequence[Any], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, and keep what it printed; options are those of ``subprocess.run``."""
    return subprocess.run([*map(str, command)], capture_output=True, text=True, **options)


def publish(folder: Path) -> Published:
    """Copy the repository's files into a new folder, write the address into its notebooks, and publish all by git."""
    tree, bare, config = folder / "tree", folder / "published.git", folder / "gitconfig"
    listed = git("-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tree / name)
    for path in notebooks.chapters(book=tree / "book"):
        notebook = notebooks.newest(path)
        place(notebook, URL)
        notebooks.write_pair(path, notebook, URL)
    git("init", "-q", "-b", "main", tree)
    git("-C", tree, "add", "--all")
    who = ["-c", "user.name=proof", "-c", "user.email=proof@example.org", "-c", "commit.gpgsign=false"]
    git("-C", tree, *who, "commit", "-q", "-m", "The book")
    git("clone", "-q", "--bare", tree, bare)
    git("--git-dir", bare, "config", "uploadpack.allowFilter", "true")
    # file:// and not a path, so that git makes the shallow and partial clones that it makes from a server.
    address = f'[url "file://{bare}"]\n\tinsteadOf = {URL}\n'
    config.write_text(f'{address}[protocol "file"]\n\tallow = always\n[safe]\n\tdirectory = "*"\n')
    return Published(bare, config, tree)


def borrowed(folder: Path) -> Path:
    """Make, in a second, an environment that has this one's packages, but not ``sto_lite``; return its Python."""
    venv.create(folder, with_pip=True, symlinks=True)
    python = folder / "bin" / "python"
    lend(python)
    return python


def lend(python: Path) -> None:
    """Let another environment import this one's packages; what a .pth among them names, as a checkout, is not."""
    asked = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(call(asked, check=True).stdout.strip())
    (site / "borrowed.pth").write_text(f"{sysconfig.get_path('purelib')}\n")


def clean(folder: Path, python: str = sys.executable, packages: Sequence[str] = (*PRESENT, *TOOLS)) -> Path:
    """Make an environment with these packages, by uv; return its Python. MissingError: no such Python, no network."""
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if uv is None:
        raise MissingError("uv is not installed")
    made = folder / "bin" / "python"
    for what in (("venv", "--python", python, folder), ("pip", "install", "--python", made, *packages)):
        done = call([uv, "--quiet", *what])
        if done.returncode:
            why = done.stderr.strip()
            raise MissingError(f"no environment of {python} with {', '.join(packages)}: {why}")
    return made


def environ(python: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a process in an environment: smoke scale, one thread, nothing of this process's own."""
    ours = ("PYTHON", "JUPYTER", "STO_", "VIRTUAL_ENV", "CI", "PYTEST")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    path = f"{python.parent}{os.pathsep}{kept['PATH']}"
    return {**kept, "PATH": path, "STO_SCALE": "smoke", "OMP_NUM_THREADS": "1", "MPLBACKEND": "", **extra}


@contextlib.contextmanager
def serving(command: Sequence[Any], url: str, env: Mapping[str, str], folder: Path) -> Iterator[None]:
    """Run a server, wait until it answers at ``url``, for five minutes at most, and stop it with all it started."""
    log, words = folder / "server.log", [*map(str, command)]
    with log.open("w") as file:
        to = {"stdout": file, "stderr": subprocess.STDOUT}
        server = subprocess.Popen(words, cwd=folder, env=dict(env), start_new_session=True, **to)  # type: ignore[call-overload]
    try:
        until = time.monotonic() + 300
        while not answers(url):
            if server.poll() is not None or time.monotonic() > until:
                raise ProofError(f"{command[0]} does not answer at {url}:\n{log.read_text()[-3000:]}")
            time.sleep(0.2)
        yield
    finally:
        for end in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, end)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(timeout=60)  # a hub stops its users' servers first


def answers(url: str) -> bool:
    """Whether a server answers there."""
    try:
        with urlopen(url, timeout=5):
            return True
    except (URLError, OSError):
        return False


def free_port() -> int:
    """Find a port of this machine that nobody uses."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
