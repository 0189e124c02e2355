"""What make and continuous integration run, whatever the machine that they run on has been set to."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Stands for Python, and for all that an environment holds: writes down how it was called.
PROGRAM = """#!/bin/sh
{ echo "$(basename "$0") $*"; env | sed 's/^/    /'; } >> "$CALLS"
[ "$2" = venv ] && mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && cp "$0" "$3/bin/uv"
exit 0
"""

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="there is no make")


def program(path, text=PROGRAM):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_the_environment_is_made_whatever_the_shell_was_set_to(tmp_path):
    here = tmp_path / "a clone"
    here.mkdir()
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, here)
    python = program(tmp_path / "an interpreter" / "python3")
    places = "PYTHONPATH PYTHONHOME PIP_TARGET UV_PROJECT_ENVIRONMENT UV_CONSTRAINT VIRTUAL_ENV"
    switches = "PYTHONSAFEPATH PIP_USER PIP_REQUIRE_VIRTUALENV UV_SYSTEM_PYTHON"
    led_astray = dict.fromkeys(places.split(), "/elsewhere") | dict.fromkeys(switches.split(), "1")
    wanted = {"PIP_INDEX_URL": "https://mirror.example", "UV_DEFAULT_INDEX": "https://mirror.example"}
    calls = tmp_path / "calls"
    environment = {"PATH": os.environ["PATH"], "CALLS": str(calls), **led_astray, **wanted}
    done = subprocess.run(
        ["make", ".venv/ready", f"PYTHON={python}"], cwd=here, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0 and (here / ".venv" / "ready").exists(), done.stderr
    seen = calls.read_text()
    assert "pip install" in seen and "uv pip install" in seen
    assert [name for name in led_astray if f"    {name}=" in seen] == []
    assert all(seen.count(f"    {name}=") == 4 for name in wanted), "packages come from where it says"


def test_a_typo_rebuilds_no_more_than_it_must_and_tests_build_afresh(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "book").mkdir()
    for name in ("_config.yml", "_toc.yml", "requirements.txt", "pyproject.toml", "book/a.md"):
        (tmp_path / name).touch()
    page = 'mkdir -p _build/html && touch _build/html/index.html && echo "$*" >> calls'
    program(tmp_path / ".venv" / "bin" / "jupyter-book", f"#!/bin/sh\n{page}\n")
    (tmp_path / ".venv" / "ready").touch()
    built = tmp_path / "_build" / "html" / "built-before"
    later = iter(range(10, 1000, 10))

    def kept(target, *edited):
        """Whether the pages of the build before are still there."""
        for name in edited:
            now = time.time() + next(later)
            os.utime(tmp_path / name, (now, now))
        if built.parent.exists():
            built.touch()
        subprocess.run(["make", target], cwd=tmp_path, check=True, capture_output=True)
        for stamp in tmp_path.glob("_build/f*"):  # as if made after the edits
            now = time.time() + next(later)
            os.utime(stamp, (now, now))
        return built.exists()

    assert not kept("book")
    assert kept("book", "book/a.md") and kept("book")
    assert not kept("book", "_config.yml"), "what every page depends on"
    assert not kept("_build/fresh")
    assert kept("_build/fresh"), "nothing was edited"
    assert not kept("_build/fresh", "book/a.md")
    shutil.rmtree(built.parent)
    assert not kept("_build/fresh") and built.parent.exists()
    strict = ["-W" in line.split() for line in (tmp_path / "calls").read_text().splitlines()]
    assert strict == [False, False, False, False, True, True, True]


@pytest.mark.parametrize("user", ["root", "somebody with sudo", "somebody without"])
def test_ci_installs_what_only_the_system_can_give(user, tmp_path):
    calls, bin_ = tmp_path / "calls", tmp_path / "bin"
    for name in ("apt-get", "make"):
        program(bin_ / name, f'#!/bin/sh\necho "{name} $*" >> "$CALLS"\n')
    program(bin_ / "id", f"#!/bin/sh\necho {0 if user == 'root' else 1000}\n")
    refuses = "exit 1" if user.endswith("without") else 'shift; exec "$@"'
    program(bin_ / "sudo", f'#!/bin/sh\necho "sudo $*" >> "$CALLS"\n{refuses}\n')
    environment = {"PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}", "CALLS": str(calls)}
    environment |= {"CHROMIUM": "no-such-browser", "CDPATH": str(ROOT.parent)}
    done = subprocess.run([ROOT / ".ci" / "run", "check"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = calls.read_text().splitlines()
    assert lines[-1] == "make check"
    installed = any("apt-get install" in line and "chromium" in line for line in lines)
    assert installed is (user != "somebody without")
    assert any(line.startswith("sudo") for line in lines) is (user != "root")
