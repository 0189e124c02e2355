"""The register: complete, unchanged or saying so, older than its answers; and the page that is made of it."""

import json
import re
from dataclasses import replace
from datetime import date

import pytest

from sto_lite.experiments.jobs import cell_epochs
from sto_lite.experiments.paper import EXPERIMENTS
from sto_lite.experiments.tables import method_matches, read_config
from tools import register_page
from tools.entries import ROOT, EntryError
from tools.findings import Results, read_all
from tools.register import REGISTER, origins, read_register, rewritten, too_old, versions

ENTRIES = read_register()
ENTRY = {entry.id: entry for entry in ENTRIES}
ALL = read_all()
WAITING = read_all(register_page.UNREAD)
RECORDS = [r for r in ALL if not r["data"].get("subset")]  # whose seeds may also be in a collection
by_id = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)


@by_id
def test_an_entry_is_complete_unchanged_or_says_so_and_older_than_its_records(entry):
    """Against git's history where there is one; a copy without it has the dates of the file alone."""
    assert too_old(entry, ALL + WAITING) == []
    origin = origins().get(entry.id)
    assert rewritten(entry, origin) == []
    if origin and not entry.afterwards and not entry.changes:
        assert str(entry.registered) <= origin.date, "committed before the day it claims"
    assert isinstance(entry.registered, date) and entry.question and entry.rule and entry.records
    assert entry.afterwards or entry.expectation, "what was thought beforehand"
    assert register_page.EXPERIMENT.get(entry.id, "table1") in EXPERIMENTS


def asked_of(entry):
    """The protocol that an entry's words fix: options of the command, its own or that of the entry it names."""
    named = next((e for e in ENTRIES if e.id != entry.id and re.search(rf"\b{e.id}\b", entry.runs)), None)
    options = dict(re.findall(r"--([a-z-]+) (\w+)", entry.runs)) or (asked_of(named) if named else {})
    keys = ("data", "net", "size", "limit", "epochs", "evaluate-every")
    return {key: options[key] for key in keys if key in options}


def strays(entry, records):
    """What a collection holds that its entry did not ask for: other seeds, images or protocol."""
    own = "each seed its own" in entry.subset
    wanted = asked_of(entry)
    cells = EXPERIMENTS[register_page.EXPERIMENT.get(entry.id, "kin")].cells
    for record in (r for r in records if r.get("collection") == entry.records):
        config, data = record["config"], record["data"]
        has = {"data": data["name"], "size": data["size"], "limit": data["counts"]["train"], **config}
        has = {key.replace("_", "-"): str(value) for key, value in has.items()}
        # As long as STO's compute lasts, where that is asked for.
        for cell in (c for c in cells if c.epochs == "sto" and "epochs" in wanted):
            usual = replace(read_config(record), epochs=int(wanted["epochs"]))
            if config["epochs"] == cell_epochs(cell, usual, data["size"]) and method_matches(cell, record):
                has["epochs"] = wanted["epochs"]
        subset = config["seed"] if own else 0
        if config["seed"] not in entry.seeds or (data.get("subset") or 0) != subset:
            yield f"seed {config['seed']} on subset {data.get('subset')}"
        yield from (f"{key} {has[key]}" for key, value in wanted.items() if has[key] != value)


@by_id
def test_the_records_of_a_question_are_what_was_registered(entry):
    assert entry.afterwards or list(strays(entry, ALL + WAITING)) == []


def test_records_that_were_not_asked_for_are_seen():
    entry = ENTRY["votes"]  # which borrows its protocol
    assert asked_of(entry)["epochs"] == "600" and asked_of(entry)["limit"] == "1024"
    record = next(r for r in ALL if r["collection"] == entry.records and r["config"]["seed"] == 3)
    assert list(strays(entry, [record])) == []
    record = record | {"config": record["config"] | {"seed": 9, "epochs": 60}}
    assert list(strays(entry, [record])) == ["seed 9 on subset 3", "epochs 60"]


def test_unread_records_wait_for_seeds_that_are_to_come(monkeypatch, tmp_path):
    """A question's records lie in one place, and none that is complete, or that nobody asked, waits."""
    by_collection = {entry.records: entry for entry in ENTRIES if not entry.afterwards}
    waiting = {record["collection"] for record in WAITING}
    assert waiting <= by_collection.keys() and not waiting & {record["collection"] for record in ALL}
    for name in waiting:
        entry, mine = by_collection[name], Results([r for r in WAITING if r["collection"] == name])
        (table, *_) = mine.tables(register_page.EXPERIMENT[entry.id])
        assert list(register_page.missing(entry, table)), f"{name} is complete: move it to data/runs"
    entry = next(e for e in ENTRIES if not register_page.count(e) and not e.afterwards)
    monkeypatch.setattr(register_page, "UNREAD", tmp_path)
    assert "no run is there yet" in "\n".join(register_page.write_entry(entry, Results([])))
    (tmp_path / entry.records).mkdir()
    (tmp_path / entry.records / "one.json").touch()
    page = "\n".join(register_page.write_entry(entry, Results([])))
    assert f"wait unread for the last one, in `data/unread/{entry.records}`: 1." in page


def test_the_checks_see_what_they_are_for():
    entry = next(e for e in ENTRIES if not e.afterwards and not e.changes)
    days = ("2000-01-01", str(entry.registered))
    old, new = ({"collection": entry.records, "finished": day} for day in days)
    assert len(too_old(entry, [old, new, {**old, "collection": "another"}])) == 1
    assert too_old(replace(entry, afterwards=True), [old]) == []
    origin = register_page.origins().get(entry.id) or pytest.skip("no history here")
    moved = replace(entry, rule="whatever suits us", seeds=(9,))
    assert rewritten(moved, origin) == ["seeds", "rule"]
    told = {"date": date(2030, 1, 1), "what": "another rule", "why": "a slip"}
    assert rewritten(replace(moved, changes=(told,)), origin) == ["seeds", "rule"], "changes are added"
    assert rewritten(replace(entry, changes=(told,)), origin) == []
    assert rewritten(entry, replace(origin, entry=replace(entry, changes=(told,)))) == ["changes"]


def test_history_is_read_from_git_and_missed_without_it(tmp_path):
    assert list(versions(tmp_path)) == []
    first = next(versions(ROOT), None) or pytest.skip("no history here")
    assert read_register(first[2]) and len(first[1]) == 10


def test_entries_that_cannot_be():
    whole = REGISTER.read_text(encoding="utf-8")
    for text, message in {
        "- {id: a, colour: red}": "a: no entry has colour",
        "- {id: a}": "missing",
        "- {question: a}": "an entry without an id",
        whole + whole[whole.index("\n- id:") :]: "stands there twice",
        whole.replace("why:", "because:", 1): "a change has a date",
    }.items():
        with pytest.raises(EntryError, match=message):
            read_register(text)


def test_every_entry_stands_on_the_page_once():
    asked, afterwards = ("\n".join(register_page.register(part)) for part in ("asked", "afterwards"))
    page = f"{asked}\n{afterwards}"
    for entry in ENTRIES:
        assert f"{{#{entry.id}}}" in (afterwards if entry.afterwards else asked)
        assert page.count(f"{{#{entry.id}}}") == 1
        assert all(change["why"] in page for change in entry.changes)
    overview = list(register_page.register("overview"))
    assert len(overview) == 2 + len(ENTRIES)
    with pytest.raises(ValueError, match="not 'middle'"):
        list(register_page.register("middle"))


def in_collection(entry, method, seed, error, **settings):
    """A committed record as if it were another run of an entry's collection: other seed, images and error."""
    known = (r for r in RECORDS if r["data"]["name"] == "fer2013" and r["config"]["epochs"] == 600)
    one = json.loads(json.dumps(next(r for r in known if r["method"]["name"] == method)))
    one["config"]["seed"], one["collection"] = seed, entry.records
    one["method"] |= settings
    one["data"] |= {"subset": seed, "fingerprint": f"f{seed}"}
    for split in one["result"]:
        one["result"][split]["error"] = error
    return {**one, "finished": "2030-01-01"}


def test_answers_come_from_the_records_and_an_early_look_is_called_one():
    entry, pairs = ENTRY["fresh-subsets"], ENTRY["sto-against-parts"]

    def answer(seeds, of=entry, more=(), whole=True):
        runs = [in_collection(entry, "baseline", s, 60 + 0.1 * s) for s in seeds]
        own = {"lam": 0.25, "teacher_backward": True}
        runs += [in_collection(entry, "sto", s, 57 + 0.1 * s, **own) for s in seeds]
        parts = [("sto", own | {"lam": 0.0}), ("sto", own | {"teacher_backward": False})]
        for method, part in [*parts, ("stochastic-depth", {})] if whole else ():
            runs += [in_collection(entry, method, s, 58 + 0.1 * s, **part) for s in seeds]
        return "\n".join(register_page.answer(of, Results([*more, *runs])))

    assert answer([]) == ""
    text = answer(entry.seeds[:3], more=RECORDS)
    assert "early look" in text and "each seed its own 1,024 training images" in text
    assert "STO against baseline: **+3.00" in text and "3 seeds): better" in text
    text = answer(entry.seeds, more=RECORDS)
    assert "early look" not in text and "5 seeds): better" in text
    assert "fewer than three pairs" in answer(entry.seeds[:3], of=pairs, whole=False)
    # A registered row that nobody began is awaited too; the other test images decide nothing.
    assert "(λ = 0) 3, 4, 5, 6, 7; " in answer(entry.seeds, whole=False)
    headline, beside = answer(entry.seeds, more=RECORDS).split("**Beside it**")
    assert "better" in headline and "public" in beside and "better" not in beside


def of_method(entry, seed, error, name, **settings):
    one = in_collection(entry, "baseline", seed, error)
    return {**one, "method": {"name": name, **settings}}


def told(entry, runs):
    return [line for line in register_page.answer(entry, Results(runs)) if line.startswith("- ")]


def test_label_smoothing_is_asked_of_the_block_it_was_registered_with():
    """STO − label smoothing is a family of one, and label smoothing's own gain stands beside."""
    entry = ENTRY["label-smoothing"]
    runs = []
    for s in entry.seeds:
        runs.append(of_method(entry, s, 60 + 0.1 * s, "baseline"))
        runs.append(of_method(entry, s, 59 + 0.1 * s, "label-smoothing", smoothing=0.1))
        runs.append({**of_method(entry, s, 57 + 0.1 * s, "sto"), "collection": "fer2013-1024-subsets"})
        runs.append(of_method(entry, s, 58 + 0.1 * s, "stochastic-depth", p_last=0.5, schedule="linear"))
    first, second, *_ = told(entry, runs)
    assert first.startswith("- STO against label smoothing: **+2.00") and first.endswith("5 seeds): better.")
    assert second.startswith("- label smoothing against baseline: **+1.00") and "block" in second
    assert not any("stochastic depth against" in line for line in told(entry, runs))
    (table, *_) = register_page.answering(entry, Results(runs))
    assert table.block is not None and len(table.block.rows) == 4, "Table 3's rows are in the block"


def test_later_seeds_move_no_answer_and_have_their_own():
    first, again = ENTRY["ladder-4096"], ENTRY["ladder-4096-again"]
    runs = {
        entry.id: [
            of_method(entry, s, error + noise, name)
            for s in entry.seeds
            for noise, name in ((0.1 * s, "baseline"), (0.2 * s % 0.5 - gain, "sto"))
        ]
        for entry, gain, error in ((first, 2, 50), (again, 1, 50))
    }
    alone, both = told(first, runs[first.id]), [*runs[first.id], *runs[again.id]]
    assert told(first, both) == alone and "3 seeds" in alone[0]
    private, public = (line for line in told(again, both) if "STO against baseline" in line)
    assert "5 seeds" in private and "5 seeds" in public and told(again, runs[first.id]) == []
    shown = ["\n".join(register_page.write_entry(entry, register_page.results())) for entry in (first, again)]
    assert all(f"**Answer**, {count} runs" in page for page, count in zip(shown, (12, 25), strict=True))


def test_the_kin_are_asked_by_their_pairs():
    """Gates by image against STO, and one direction against two, in one block; and every row's own gain beside."""
    entry, rows = ENTRY["kin-gain"], [(60, "baseline", {}), (59, "sto", {})]
    rows += [(56, "sto-otherwise", {"gates": "image"}), (58, "r-drop", {}), (61, "r-drop", {"directions": 1})]
    runs = [of_method(entry, s, e + 0.1 * s, name, **own) for s in entry.seeds for e, name, own in rows]
    first, second, *_ = told(ENTRY["kin-gates"], runs)
    assert first.startswith("- STO, gates by image against STO: **+3.00") and first.endswith("better.")
    assert second == "- cosub, gates by image against cosub: fewer than three pairs so far."
    _, second, *_ = told(ENTRY["kin-directions"], runs)
    assert second.startswith("- R-Drop, one direction against R-Drop: **-3.00") or "−3.00" in second
    own = told(entry, runs)
    assert any(line.startswith("- STO against baseline: **+1.00") for line in own)


PAIRS = {"dropped-blocks": [("stochastic-depth", "stochastic-depth-stepped")]}
PAIRS["peers-otherwise"] = [("dml", "dml-mean"), ("one", "one-attached")]


@pytest.mark.parametrize("id_", PAIRS)
def test_paired_differences_are_told_row_by_row(id_):
    """The first pair differs by a point in every seed, the second by −5, 2 and 3: a block would hide the first."""
    entry, runs = ENTRY[id_], []
    for number, (s, gain) in enumerate(zip(entry.seeds[:3], (-5, 2, 3), strict=True)):
        for (one, other), by in zip(PAIRS[id_], (1, gain), strict=False):
            runs += [of_method(entry, s, 60 + number, one), of_method(entry, s, 60 + number - by, other)]
    first, *more = told(entry, runs)
    assert "**+1.00" in first and "this pair of rows alone; 3 seeds): better." in first
    assert len(PAIRS[id_]) == 1 or ("**+0.00" in more[0] and more[0].endswith("undecided."))
