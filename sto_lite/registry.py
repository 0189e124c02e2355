"""Every method by its name (chapters 5 and 6, the controls beside them, and the kin of chapter 9b)."""

from dataclasses import fields

from sto_lite import own
from sto_lite.controls import EMA, AttachedONE, LabelSmoothing, MeanDML, SteppedDepth
from sto_lite.errors import suggest
from sto_lite.fused import FusedSTO
from sto_lite.kd import KD
from sto_lite.kin import CoSub, ExpectationLinear, Fraternal, OtherSTO, RDrop
from sto_lite.methods import Baseline, Method, StochasticDepth
from sto_lite.peers import DML, ONE, OKDDip
from sto_lite.selves import OwnTeacher, ProgressiveSelf, Sandwich

METHODS: dict[str, type] = {
    method.name: method
    for method in (
        *(Baseline, StochasticDepth, FusedSTO, DML, ONE, OKDDip, KD),
        *(LabelSmoothing, EMA, SteppedDepth, MeanDML, AttachedONE),
        *(CoSub, RDrop, Fraternal, ExpectationLinear, OtherSTO, Sandwich, OwnTeacher, ProgressiveSelf),
    )
}


def find(name: str) -> type:
    """The class of a method: one of METHODS, or package.module:CLASS. Raises ValueError for no such method, and
    RunError if one's own cannot be imported.
    """
    if own.is_own(name):
        return own.method(name)
    if name not in METHODS:
        raise ValueError(
            f"no method is called {name!r}; there are {', '.join(METHODS)}, and your own as package.module:CLASS"
            f"{suggest(name, METHODS)}"
        )
    return METHODS[name]


def make(name: str, **settings: object) -> Method:
    """A method by its name, with its settings. Raises ValueError for no such method, or a setting that it does not
    have, or one that it needs is missing, and RunError if one's own cannot be imported.
    """
    kind = find(name)
    known = {field.name for field in fields(kind)}
    if unknown := sorted(set(settings) - known):
        has = ", ".join(sorted(known)) or "none"
        raise ValueError(f"method {name} has no setting {', '.join(unknown)}; it has {has}")
    try:
        return kind(**settings)
    except TypeError as error:
        raise ValueError(f"method {name} cannot be made: {error}") from error
