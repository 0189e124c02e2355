"""Methods, networks and experiments of one's own, named by where they are imported from (the page Extend it)."""

import importlib
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sto_lite.errors import RunError, suggest

PAGE = "book/extend.md shows one"


def is_own(name: str) -> bool:
    """Whether a name is package.module:NAME, and not one of ours."""
    return ":" in name


def find(path: str, what: str) -> Any:
    """What package.module:NAME names; the working folder is looked through too, after everything installed. Raises
    RunError if there is no such module, it fails, or it lacks the name.
    """
    module, _, name = path.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found = importlib.import_module(module)
    except Exception as error:  # what a module of somebody else raises may be anything
        why = f"importing it gives {type(error).__name__}: {error}"
        if isinstance(error, ModuleNotFoundError) and error.name in (module, module.partition(".")[0]):
            meant = suggest(module, [file.stem for file in Path().glob("*.py")])
            why = f"there is no module {module} in {here}, nor among what is installed{meant}"
        raise RunError(
            f"{what} {path!r} cannot be used: {why}. Call sto in the folder that holds the module, or name that "
            f"folder in PYTHONPATH"
        ) from error
    if not hasattr(found, name):
        names = [key for key, value in vars(found).items() if callable(value) and not key.startswith("_")]
        told = f"{getattr(found, '__file__', module)} has no {name}{suggest(name, names)}"
        raise RunError(f"{what} {path!r} cannot be used: {told}")
    return getattr(found, name)


@cache
def method(path: str) -> type:
    """A method's class, with its path as its name, in records and folders too. Raises RunError if it cannot be
    imported, or is no method.
    """
    kind = find(path, "method")
    lacks = [part for part in ("build", "step", "deploy") if not callable(getattr(kind, part, None))]
    if not isinstance(kind, type) or not is_dataclass(kind) or lacks:
        why = f"it lacks {', '.join(lacks)}" if lacks else "it is no dataclass"
        raise RunError(
            f"{path} is no method: {why}; a method is a frozen dataclass with build, step and deploy, such as a "
            f"subclass of sto_lite.methods.Baseline ({PAGE})"
        )
    same = {key: getattr(kind, key) for key in ("__module__", "__doc__")}
    return type(kind.__name__, (kind,), {**same, "name": path})


def settings(path: str) -> dict[str, tuple[Any, Any, str]]:
    """The settings of a method of one's own: name -> (annotation, default, the docstrings of its classes)."""
    kind = method(path)
    said = "\n\n".join(base.__doc__ or "" for base in kind.__mro__ if is_dataclass(base))
    return {field.name: (field.type, field.default, said) for field in fields(kind) if field.init}


def network(path: str, num_classes: int, generator: torch.Generator | None = None) -> Any:
    """What a function of one's own makes of the number of classes: a network with gates (gated.py).

    Its initial weights come from torch's global generator, which is set by `generator` for the call. Raises RunError
    if it cannot be imported, fails, or gives no network with gates.
    """
    make: Callable[[int], Any] = find(path, "network")
    with torch.random.fork_rng(devices=[], enabled=generator is not None):
        if generator is not None:
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        try:
            net = make(num_classes)
        except Exception as error:
            raise RunError(f"{path}({num_classes}) gives {type(error).__name__}: {error}") from error
    if not isinstance(net, nn.Module) or not hasattr(net, "num_blocks") or not hasattr(net, "blocks"):
        raise RunError(
            f"{path} gives {type(net).__name__}, which has no gates: return gated(net, branches), from "
            f"sto_lite.gated ({PAGE})"
        )
    return net
