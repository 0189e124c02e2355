"""One table for a class, which refuses to rank noise: tools/class_table.py.

    python tools/class_table.py gradients ~/sto-course --out page
    python tools/class_table.py gradients ~/2027 ~/2028 --out page     years as rows

Records are looked over as ``tools/submissions.py`` does, and nothing of a student's is executed. A student is one
observation: their errors are means over their seeds, and methods are compared within a student. ``page`` gets
``class.md``, ready to publish, without names, and ``forest.png``. Where a pooled interval holds 0, nobody won.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that this file also runs as a script

from sto_lite import homework as handed_in  # noqa: E402
from sto_lite.blocks import Block, compare, fit_block  # noqa: E402
from sto_lite.errors import print_anything, shown  # noqa: E402
from sto_lite.experiments.formats import spread  # noqa: E402
from sto_lite.files import expand, save, visible  # noqa: E402
from sto_lite.stats import Interval, interval  # noqa: E402
from tools import homework, submissions  # noqa: E402
from tools.homework import HomeworkError, Notebook  # noqa: E402

Errors = dict[str, dict[Any, dict[int, float]]]  # method -> student -> seed -> error in %


@dataclass
class Collected:
    """What a class handed in. errors: of the records that count. said: whose do not, and why. protocols: how many."""

    reference: str
    errors: Errors
    said: list[str]
    protocols: int = 1


def collect(source: Notebook, course: Path, name: str) -> Collected:
    """Read a class's records; a submission with any fault, or with another student's runs, does not count."""
    found, protocols, seen = Collected("", {}, []), set(), dict[str, str]()
    of_book = set(submissions.each_record(homework.SOURCES, submissions.run_of))
    for student in visible(course / "submitted", "*"):
        folder, known = student / name, dict[str, Any]()
        if not folder.is_dir():
            continue
        faults = submissions.strange(folder) or submissions.about_records(source, folder, known)
        if faults or "REFERENCE" not in known or not visible(folder / "records", "*.json"):
            found.said.append(f"{student.name}: {faults[0] if faults else 'no records of one comparison'}")
            continue
        records = handed_in.read(folder / "records")
        if any(submissions.run_of(record) in of_book for record in records):
            found.said.append(f"{student.name}: has records of the book")
            continue
        prints = {json.dumps(record["history"]["train_loss"]): student.name for record in records}
        if copied := {seen[key] for key in prints if key in seen}:
            found.said.append(f"{student.name}: has runs of {', '.join(sorted(copied))}; counted once")
            continue
        seen |= prints
        found.reference = known["REFERENCE"]
        split = list(records[0]["predictions"])[-1]
        for label, runs in handed_in.sort(records, known["ARMS"]).items():
            of = {seed: handed_in.recomputed(record, split) for seed, record in runs.items()}
            found.errors.setdefault(label, {})[student.name] = of
        protocols.add(json.dumps([records[0]["data"], {**records[0]["config"], "seed": 0}], sort_keys=True))
    if not found.errors:
        raise HomeworkError(f"{course} holds no submission of {name} whose records can be counted")
    found.protocols = len(protocols)
    return found


def fit(errors: Errors) -> Block | None:
    """Methods × students: a student is one observation, the mean over their seeds; None with too few of them."""
    means = {}
    for label, of in errors.items():
        means[label] = {student: float(np.mean(list(seeds.values()))) for student, seeds in of.items()}
    return fit_block(means)


def pooled(block: Block | None, reference: str) -> dict[str, Interval]:
    """The gain of every other method over the reference, with intervals that hold for all of them together; none
    from fewer than three students.
    """
    if block is None or len(set().union(*block.keys)) < 3:
        return {}
    pairs = [(reference, row) for row in block.rows if row != reference]
    return {pair[1]: found.wide for pair, found in zip(pairs, compare(block, pairs), strict=True)}


def rank(block: Block) -> dict[str, tuple[int, int]]:
    """The best and the worst place that each method can have, where Holm's procedure tells two methods apart."""
    pairs = list(combinations(block.rows, 2))
    above = dict.fromkeys(block.rows, 0)  # how many are better
    below = dict(above)
    for (one, two), found in zip(pairs, compare(block, pairs), strict=True):
        if found.p < 0.05:
            worse, better = (one, two) if found.alone.mean > 0 else (two, one)
            above[worse] += 1
            below[better] += 1
    return {row: (1 + above[row], len(block.rows) - below[row]) for row in block.rows}


def measure_heterogeneity(errors: Errors, first: str, second: str) -> tuple[float, float] | None:
    """How far a gain differs between students beyond their seeds: deviation in points, and the F test's p.

    None with fewer than two students, or where nobody has two seeds.
    """
    from scipy.stats import f

    groups = [np.array(gains) for gains in by_student(errors, first, second)]
    sizes = np.array([len(group) for group in groups])
    count, runs = len(groups), int(sizes.sum())
    if count < 2 or runs <= count:
        return None
    means = np.array([group.mean() for group in groups])
    between = float((sizes * (means - np.concatenate(groups).mean()) ** 2).sum()) / (count - 1)
    within = float(sum(((group - group.mean()) ** 2).sum() for group in groups)) / (runs - count)
    size = (runs - (sizes**2).sum() / runs) / (count - 1)  # of a group, where they differ
    p = float(f.sf(between / within, count - 1, runs - count)) if within else 0.0
    return max(0.0, (between - within) / size) ** 0.5, p


def by_student(errors: Errors, first: str, second: str) -> Iterator[list[float]]:
    """The gains of each student's seeds, in the order of the students."""
    one, two = errors[first], errors[second]
    for s in sorted(one.keys() & two.keys()):
        yield [one[s][seed] - two[s][seed] for seed in sorted(one[s].keys() & two[s].keys())]


def describe(title: str, name: str, found: Collected) -> str:
    """A class's part of the page, in Markdown."""
    students = {student for of in found.errors.values() for student in of}
    seeds = sum(len(of) for of in found.errors[found.reference].values())
    lines = [f"## {title}: {name}", ""]
    protocols = "1 protocol" if found.protocols == 1 else f"{found.protocols} protocols"
    lines += [f"{len(students)} students, {seeds} seeds, {protocols}. Gains over {found.reference}."]
    block = fit(found.errors)
    if block is None or len(students) < 3:
        return "\n".join([*lines, "", "Fewer than three students: nothing is pooled, and nothing is ranked."])
    gains, places = pooled(block, found.reference), rank(block)
    lines += ["", "| method | error, % | gain, points (95 %, all together) | between students | place |"]
    lines += ["|---|---|---|---|---|"]
    for label, of in found.errors.items():
        error = np.mean([np.mean(list(seeds.values())) for seeds in of.values()])
        best, worst = places[label]
        place = str(best) if best == worst else f"{best} to {worst}"
        place = "not ranked" if (best, worst) == (1, len(places)) else place
        varies = measure_heterogeneity(found.errors, found.reference, label) if label in gains else None
        told = f"± {varies[0]:.2f} (p = {varies[1]:.2f})" if varies else "–"
        gain = spread(gains.get(label))
        lines.append(f"| {label} | {error:.2f} | {gain} | {told} | {place} |")
    undecided = [label for label, gain in gains.items() if gain.low <= 0 <= gain.high]
    if undecided:
        lines += ["", f"Undecided against {found.reference}: {', '.join(undecided)}. Nobody won there."]
    return "\n".join(lines)


def draw(classes: Mapping[str, Collected], path: Path) -> None:
    """A forest plot: for each method and class, every student's interval, and the pooled one below."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    first = next(iter(classes.values()))
    labels = [label for label in first.errors if label != first.reference]
    height = 1 + 0.18 * sum(len(of) + 2 for one in classes.values() for of in [one.errors[one.reference]])
    size = (2.6 * len(labels) + 1, height)
    fig, axes = plt.subplots(1, len(labels), figsize=size, sharey=True, squeeze=False)
    for ax, label in zip(axes[0], labels, strict=True):
        y, ticks = 0.0, {}
        for title, one in classes.items():
            for student in map(interval, by_student(one.errors, one.reference, label)):
                ends = [student.low, student.high] if student.seeds > 1 else [student.mean] * 2
                ax.plot(ends, [y, y], color="0.6", lw=1)
                ax.plot(student.mean, y, "s", color="0.4", ms=3)
                y -= 1
            wide = pooled(fit(one.errors), one.reference).get(label)
            if wide and len(one.errors[label]) > 2:
                ax.fill([wide.low, wide.mean, wide.high, wide.mean], [y, y + 0.4, y, y - 0.4], color="C1")
            ticks[y] = title
            y -= 2
        ax.axvline(0, color="k", lw=0.8)
        ax.set(title=label, xlabel="gain, points")
        ax.set_yticks(list(ticks), list(ticks.values()))
    fig.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=150)
    plt.close(fig)


def page(name: str, classes: Mapping[str, Collected]) -> str:
    """The page that a class can publish: the years in a table of rows, then each class, and how it was done."""
    parts = [f"# {name}, by the class", ""]
    if len(classes) > 1:
        labels = [label for one in classes.values() for label in one.errors if label != one.reference]
        columns = list(dict.fromkeys(labels))
        parts += [f"| class | students | {' | '.join(columns)} |", f"|{'---|' * (len(columns) + 2)}"]
        for title, one in classes.items():
            gains = pooled(fit(one.errors), one.reference)
            cells = [spread(gains.get(column)) for column in columns]
            parts.append(f"| {title} | {len(one.errors[one.reference])} | {' | '.join(cells)} |")
        parts.append("")
    parts += ["![Every student's gain with its interval, and the class's as a diamond.](forest.png)", ""]
    parts += ["\n\n".join(describe(title, name, one) for title, one in classes.items()), ""]
    parts += [
        "*How.* A student is one observation, the mean over their seeds; methods are compared within a student, with "
        "one variance for the class. Intervals hold for all methods together (Dunnett). A place is given only where "
        "Holm's procedure tells two methods apart, so that of equal methods one is called the winner in at most one "
        "class of twenty. Between students: how far the gain itself differs from one student to another, beyond "
        "what their seeds explain."
    ]
    return "\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Collect, print, and write the page."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n\n")[0])
    parser.add_argument("name", help="the assignment, such as gradients")
    years = "folders of courses, one a year; each holds submitted/"
    parser.add_argument("courses", type=expand, nargs="+", help=years)
    parser.add_argument("--out", type=expand, default=Path("page"), help="a folder (default: page)")
    print_anything()
    options = parser.parse_args(arguments)
    try:
        (path,) = homework.assignments([options.name])
        source = homework.read(path)
        names = [course.resolve() for course in options.courses]
        same = len({course.name for course in names}) < len(names)
        classes = {
            f"{course.parent.name} {course.name}" if same else course.name: collect(source, course, path.stem)
            for course in names
        }
    except HomeworkError as error:
        print(error, file=sys.stderr)
        return 1
    for title, one in classes.items():
        for line in one.said:
            print(shown(f"{title}, not counted: {line}"))
        for label, gain in pooled(fit(one.errors), one.reference).items():
            print(f"{title}: {label} gains {spread(gain)} points")
    draw(classes, options.out / "forest.png")
    save(options.out / "class.md", page(path.stem, classes).encode())
    print(f"wrote {options.out / 'class.md'} and forest.png; names of students are in neither")
    return 0


if __name__ == "__main__":
    sys.exit(main())
