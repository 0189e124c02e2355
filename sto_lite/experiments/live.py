"""A table that is trained where it is read (chapters 8 and 9), at the machine's scale, in a box of time."""

import contextlib
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from sto_lite.data import prepared
from sto_lite.experiments import formats, tables
from sto_lite.experiments.jobs import Job, choose, jobs
from sto_lite.experiments.paper import EXPERIMENTS, Experiment
from sto_lite.experiments.runner import Outcome
from sto_lite.experiments.turns import take_turns
from sto_lite.records import Record, read_record
from sto_lite.scale import Scale
from sto_lite.timebox import TimeBox


class Plan(NamedTuple):
    """What a scale runs: seeds, minutes of a box, what differs from the paper's protocol, and KD's teacher."""

    seeds: range
    minutes: float
    protocol: dict[str, Any]
    teacher: str | None = None


TOY = {"net": "resnet8", "size": 8, "limit": 64, "batch_size": 32, "epochs": 2, "evaluate_every": 2}
SMALL = {"net": "resnet14", "size": 24, "limit": 1024, "epochs": 150, "evaluate_every": 30}
PLANS = {
    "smoke": Plan(range(1), 5, TOY, "resnet14"),  # seconds on an idle machine
    "colab": Plan(range(1), 15, SMALL, "resnet32"),
    "paper": Plan(range(5), 600, {}),
}
COLUMNS = ("run", "paper", "ours", "gain, block 95 %", "verdict", "seeds")


def live(
    scale: Scale,
    name: str,
    out: Path | None,
    book: tables.Table | None = None,
    minutes: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Train an experiment for one network on whatever set is prepared here, and show its table as it fills.

    Run again, it goes on with what `out` holds; None keeps nothing. At smoke scale, and without photographs, it takes
    synthetic faces. PLANS says what a scale runs, and for how many minutes if none are given. book: a table of the
    book's own records, to stand beside. clock: seconds, as for TimeBox.
    """
    plan, whole = PLANS[scale.name], EXPERIMENTS[name]
    experiment = choose(whole, None, plan.teacher if any(cell.teacher for cell in whole.cells) else None)
    wanted = dict.fromkeys(("fer2013", "rafdb", *whole.data)) if scale.name != "smoke" else ()
    box = TimeBox(60 * (minutes or plan.minutes), clock=clock)
    with tempfile.TemporaryDirectory() as lost:
        for data in [data for data in wanted if prepared(data)] or ["faces"]:
            todo = jobs(experiment, data, plan.seeds, "paper", plan.protocol)
            todo.sort(key=lambda job: job.label not in ("baseline", "STO"))  # first the pair in question
            train(experiment, todo, out or Path(lost), scale, box)
    if book:
        theirs = [record for row in book.rows for record in row.records]
        print(f"Beside it the book's own records, of {device_of(theirs)}:")
        formats.show(book, COLUMNS)


def train(experiment: Experiment, todo: list[Job], out: Path, scale: Scale, box: TimeBox) -> None:
    """Train the runs of one set, and show their table."""
    from IPython.display import HTML, display

    data, toy = todo[0].source.name, " (a toy, not a result)" if scale.name == "smoke" else ""
    board = display(HTML(f"<p>{len(todo)} runs on {data}: the first is trained.</p>"), display_id=True)
    found: list[Record] = []

    def report(outcome: Outcome) -> None:
        if outcome.status in ("kept", "done"):
            found.append(read_record(out / outcome.job.name / "record.json"))
            made = tables.tables(experiment, found)
            said = f"{len(found)} of {len(todo)} runs, on {device_of(found)}{toy}"
            shown = "".join(formats.as_html(one, COLUMNS) for one in made[:1])
            board.update(HTML(f"<p><b>Trained here</b>, {said}:</p>{shown}"))

    with contextlib.redirect_stdout(io.StringIO()):  # the table says as much
        outcomes = take_turns(todo, out, report, 1, str(scale.device), box=box)
    for outcome in outcomes:
        if outcome.status in ("begun", "failed"):
            print(f"{outcome.status}: {outcome.job.name}: {outcome.message}")
    if left := len(todo) - len(found):
        more = "nothing is kept at this scale" if toy else "run the cell again, and it goes on"
        print(f"{left} of {len(todo)} runs on {data} are left: {more}")


def device_of(found: list[Record]) -> str:
    """Where runs were made."""
    return " and ".join(dict.fromkeys(record["environment"]["device"] for record in found))
