"""Entries of a YAML file as frozen dataclasses: the claims, and the register of questions."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parents[1]
Kind = TypeVar("Kind")


class EntryError(Exception):
    """A file of entries says something that cannot be."""


def frozen(value: Any) -> Any:
    """Lists as tuples."""
    return tuple(map(frozen, value)) if isinstance(value, list) else value


def make(kind: type[Kind], file: str, what: str, raws: Iterable[Mapping[str, Any]]) -> list[Kind]:
    """Entries in the order of the file, with tuples for lists; EntryError where a field or an id cannot be."""
    found: dict[str, Kind] = {}
    for raw in raws:
        name = raw.get("id", f"an {what} without an id")
        if unknown := set(raw) - {f.name for f in fields(kind)}:  # type: ignore[arg-type]
            raise EntryError(f"{file}, {name}: no {what} has {', '.join(sorted(unknown))}")
        if name in found:
            raise EntryError(f"{file}: {name} stands there twice")
        try:
            found[name] = kind(**{key: frozen(value) for key, value in raw.items()})
        except TypeError as error:
            raise EntryError(f"{file}, {name}: {error}") from None
    return [*found.values()]
