"""The register of questions, ``data/register.yml``: what was asked before it was measured, and when."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from sto_lite.records import Record
from tools.address import GIT_FAILS, git
from tools.entries import ROOT, EntryError, make

REGISTER = ROOT / "data" / "register.yml"


@dataclass(frozen=True)
class Entry:
    """One question. The fields are those of the file, which explains them at its head.

    changes: {date, what, why} of each thing that was changed after the entry was registered.
    """

    id: str
    registered: date
    question: str
    runs: str
    seeds: tuple[int, ...]
    subset: str
    analysis: str
    rule: str
    expectation: str = ""
    records: str = "none"
    afterwards: bool = False
    changes: tuple[dict[str, Any], ...] = ()

    @property
    def content(self) -> dict[str, Any]:
        """What may not be rewritten: everything but the list of changes."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "changes"}


@dataclass(frozen=True)
class Origin:
    """Where an entry first stood: the commit, its date, and the entry as it was then."""

    commit: str
    date: str
    entry: Entry = field(repr=False)


def read_register(text: str | None = None) -> list[Entry]:
    """Every entry, in the order of the file; EntryError where one lacks something, or has what no entry has."""
    raws = yaml.safe_load(REGISTER.read_text(encoding="utf-8") if text is None else text)
    found = make(Entry, "register.yml", "entry", raws)
    for entry in found:
        whole = [set(change) == {"date", "what", "why"} and all(change.values()) for change in entry.changes]
        if not all(whole):
            raise EntryError(f"register.yml, {entry.id}: a change has a date, what was changed, and why")
    return found


def versions(root: Path = ROOT) -> Iterator[tuple[str, str, str]]:
    """Commit, date and text of the register in every commit that touched it, oldest first; none without git."""
    path = REGISTER.relative_to(ROOT).as_posix()
    try:
        # A clone that is cut off would call its oldest commit the origin of everything.
        if git("-C", root, "rev-parse", "--is-shallow-repository").strip() == "true":
            return
        for line in git("-C", root, "log", "--reverse", "--format=%h %cs", "--", path).splitlines():
            commit, day = line.split()
            yield commit, day, git("-C", root, "show", f"{commit}:{path}")
    except GIT_FAILS:
        return


@cache
def origins(root: Path = ROOT) -> dict[str, Origin]:
    """Where each entry first stood in git's history; empty outside a clone."""
    found: dict[str, Origin] = {}
    for commit, day, text in versions(root):
        try:
            entries = read_register(text)
        except (EntryError, yaml.YAMLError):
            continue
        for entry in entries:
            found.setdefault(entry.id, Origin(commit, day, entry))
    return found


def too_old(entry: Entry, records: Sequence[Record]) -> list[str]:
    """Records that answer an entry and were finished before it was registered; these make no answer of it."""
    if entry.afterwards:
        return []
    return [
        f"{record['collection']}, finished {record['finished']}"
        for record in records
        if record.get("collection") == entry.records and record["finished"][:10] < str(entry.registered)
    ]


def rewritten(entry: Entry, origin: Origin | None) -> list[str]:
    """Fields that differ from the entry's first version; changes are only added."""
    if origin is None:
        return []
    was, now = origin.entry.content, entry.content
    lost = entry.changes[: len(origin.entry.changes)] != origin.entry.changes
    return [name for name in now if now[name] != was[name]] + ["changes"] * lost
