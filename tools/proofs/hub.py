"""JupyterHub: a real hub starts a user's server, a link fetches the book, and the chapter runs there."""

import re
import shutil
from pathlib import Path
from urllib.parse import urlencode

from tools.browser import MissingError, tab
from tools.entries import ROOT
from tools.proofs.lab import LONG, VIEW, own_folders, run_all
from tools.proofs.places import URL, ProofError, Published, call, clean, environ, free_port, lend, serving

PAGE = ROOT / "book" / "hub.md"
PACKAGES = ("jupyterhub", "nbgitpuller", "jupyterlab", "ipywidgets", "pip")
# What a proof on one machine has in the place of a hub's accounts, containers and addresses.
LOCAL = """
c.JupyterHub.bind_url = {base!r}
c.JupyterHub.hub_port = {hub_port}
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{proxy_port}"
c.ConfigurableHTTPProxy.command = [{proxy!r}]
c.JupyterHub.db_url = "sqlite://"
c.JupyterHub.cookie_secret_file = {folder!r} + "/cookie_secret"
c.JupyterHub.authenticator_class = "dummy"
c.JupyterHub.spawner_class = "simple"
c.Authenticator.allow_all = True
c.SimpleLocalProcessSpawner.home_dir_template = {folder!r} + "/home/{{username}}"
c.Spawner.args = ["--allow-root"]
c.Spawner.start_timeout = c.Spawner.http_timeout = 300
c.Spawner.environment.update({variables!r})
"""


def block(name: str) -> str:
    """Return a block of the page for hub operators, by its name."""
    found = re.search(rf"^```{{code-block}} \w+\n:name: {name}\n\n(.*?)^```$", PAGE.read_text(), re.S | re.M)
    if found is None:
        raise ProofError(f"{PAGE} has no block {name}")
    return found[1]


def link(hub: str, url: str, chapter: str, branch: str = "main") -> str:
    """Return the link of a chapter's launch button: on a hub, for a repository's address and a notebook's name."""
    query = {"repo": url, "urlpath": f"lab/tree/{url.rpartition('/')[2]}/book/{chapter}", "branch": branch}
    return f"{hub}/hub/user-redirect/git-pull?{urlencode(query, safe='/')}"


def programs(folder: Path) -> tuple[Path, Path]:
    """Make an environment with the hub, and install its proxy; return both. MissingError: no npm, or no network."""
    npm = shutil.which("npm")
    if npm is None:
        raise MissingError("there is no npm, with which the hub's proxy is installed")
    python = clean(folder / "environment", packages=PACKAGES)
    lend(python)
    quiet = ("--silent", "--no-fund", "--no-audit")
    done = call([npm, "install", *quiet, "--prefix", folder, "configurable-http-proxy"])
    if done.returncode:
        raise MissingError(f"npm cannot install configurable-http-proxy: {done.stderr.strip()[-500:]}")
    return python, folder / "node_modules" / ".bin" / "configurable-http-proxy"


def run(published: Published, name: str, folder: Path) -> int:
    """Log in by a chapter's link, let the hub fetch the book, run the chapter; return how many figures answered."""
    folder.mkdir(parents=True)
    python, proxy = programs(folder)
    base = f"http://127.0.0.1:{free_port()}"
    extra = {**own_folders(folder / "user"), **published.env}
    variables = environ(python, extra)
    given = {key: variables[key] for key in (*extra, "PATH", "STO_SCALE", "OMP_NUM_THREADS")}
    ports = {"hub_port": free_port(), "proxy_port": free_port()}
    local = LOCAL.format(base=base, proxy=str(proxy), folder=str(folder), variables=given, **ports)
    config = folder / "jupyterhub_config.py"
    config.write_text(block("hub-config") + local)
    command = [python, "-m", "jupyterhub", "--config", config]
    with tab(LONG, viewport=VIEW) as page, serving(command, f"{base}/hub/health", variables, folder):
        page.goto(link(base, URL, name))
        page.get_by_label("Username").fill("ada")
        page.get_by_label("Password").fill("proof")
        page.get_by_role("button", name="Sign in").click()
        moved = run_all(page, published.explorations(name))
        if not (folder / "home" / "ada" / URL.rpartition("/")[2] / "book" / name).exists():
            raise ProofError("the hub's user has no copy of the book")
    return moved
