"""Where the book's repository can be found on the web: one address, from which every launch link is made.

It is set in one place, ``repository: url`` in ``_config.yml``. Where that is empty, git's remote ``origin`` is
taken if it is a public https address, so that a fork's pages lead to the fork. Without either, pages carry no
launch buttons and set-up hints keep the word ADDRESS.
"""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from tools.entries import ROOT

COLAB = "https://colab.research.google.com"
# Those whose links the theme can make, and their pages of a file and of a commit.
PROVIDERS = {
    "github": ("/blob/", "/commit/"),
    "gitlab": ("/-/blob/", "/-/commit/"),
    "bitbucket": ("/src/", "/commits/"),
}
WRITTEN = r"(?:ADDRESS|https://[^\s\"'\\`]+)"
HINT = re.compile(rf"(?<=git\+){WRITTEN}|(?<=git clone ){WRITTEN}")


GIT_FAILS = (OSError, subprocess.CalledProcessError)  # it is not there, or has no answer


def git(*arguments: str | Path) -> str:
    """Run git, and return what it printed; one of GIT_FAILS where that cannot be."""
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout


class AddressError(Exception):
    """The address in ``_config.yml`` cannot be one."""


@dataclass(frozen=True)
class Repository:
    """Where the repository is, on which branch the book, and which JupyterHub opens it."""

    url: str
    branch: str = "main"
    hub: str = ""

    @property
    def provider(self) -> str | None:
        """The service that keeps the repository, if it is one of PROVIDERS."""
        host = urlsplit(self.url).hostname or ""
        return next((name for name in PROVIDERS if host in {f"{name}.com", f"{name}.org"}), None)

    @property
    def launch_buttons(self) -> dict[str, str]:
        """The theme's option of this name. Colab opens notebooks from GitHub only."""
        buttons = {"notebook_interface": "jupyterlab"}
        if self.provider == "github":
            buttons["colab_url"] = COLAB
        if self.hub:
            buttons["jupyterhub_url"] = self.hub
        return buttons if len(buttons) > 1 else {}

    def linked(self, text: str, file: str = "", commit: str = "") -> str:
        """A text that leads to a file on the branch or to a commit, Markdown; where no page is known, the text."""
        if not self.provider:
            return text
        at_file, at_commit = PROVIDERS[self.provider]
        place = f"{at_file}{self.branch}/{file}" if file else f"{at_commit}{commit}"
        return f"[{text}]({self.url}{place})"

    def in_hints(self, text: str) -> str:
        """Put the address into ``pip install`` and ``git clone`` hints, in place of ADDRESS or an older one."""
        return HINT.sub(self.url, text)


def public(url: str) -> str:
    """Return ``url`` without a trailing ``/`` or ``.git`` if anybody could open it, else an empty string."""
    url = url.strip().removesuffix("/").removesuffix(".git")
    return url if re.fullmatch(r"https://[^/@\s]+\.[a-z]{2,}(/[^/\s]+){2,}", url) else ""


def configured(root: Path = ROOT) -> Repository:
    """Return what ``_config.yml`` says; an address may be missing, and one that is none is an AddressError."""
    settings = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    given, hub = settings["repository"], settings.get("launch_buttons", {}).get("jupyterhub_url") or ""
    url = given.get("url") or ""
    if url and not public(url):
        raise AddressError(
            f"_config.yml: repository: url: {url!r} is not a public https address of a repository, such as "
            "https://github.com/owner/name"
        )
    return Repository(public(url), given.get("branch") or "main", hub.removesuffix("/"))


def repository(root: Path = ROOT) -> Repository | None:
    """Return the repository by ``_config.yml``, else by git's ``origin``; None without a public address."""
    found = configured(root)
    if found.url:
        return found
    try:
        top = git("-C", root, "rev-parse", "--show-toplevel").strip()
        # Inside another repository, the remote is that one's.
        ours = Path(top).samefile(root)
        url = public(git("-C", root, "config", "--get", "remote.origin.url")) if ours else ""
    except GIT_FAILS:
        return None
    return Repository(url, found.branch, found.hub) if url else None
