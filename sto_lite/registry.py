"""Every method by its name (chapters 5 and 6, the controls beside them, and the kin of chapter 9b)."""

from dataclasses import fields

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


def make(name: str, **settings: object) -> Method:
    """A method by its name, with its settings.

    Raises:
        ValueError: no such method, or a setting that it does not have.
    """
    if name not in METHODS:
        raise ValueError(
            f"no method is called {name!r}; there are {', '.join(METHODS)}{suggest(name, METHODS)}"
        )
    known = {field.name for field in fields(METHODS[name])}
    if unknown := sorted(set(settings) - known):
        raise ValueError(
            f"method {name} has no setting {', '.join(unknown)}; it has {', '.join(sorted(known)) or 'none'}"
        )
    return METHODS[name](**settings)
