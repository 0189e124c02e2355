"""Measure and tune the lanes of chapter 7 on the GPU at hand: python tools/gpu.py, in less than ten minutes.

Sections come in the order of their worth: self-test, the registered marks (a whole run, steps, a row), steps, tiles,
steps with the tiles found, the other networks, float32, cuDNN's convolutions. Each has a process of its own and a
limit. Results are written as they come, to data/gpu/CARD.json, and the tiles to sto_lite/speed/lanes/tuned.json, or
both to a folder (--out). What the --minutes do not hold is told, and the same call again does what is left or failed.
Two ways need no GPU: --compile writes data/gpu/compiled.json, what the compiler makes of every kernel, and --rehearse
runs every section once as a tiny toy in Triton's interpreter, and keeps nothing.
"""

import argparse
import itertools
import json
import math
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import closing, suppress
from dataclasses import astuple, dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

BEGUN = time.monotonic()
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that this file also runs as a script
if "--rehearse" in sys.argv:  # before anything imports Triton
    os.environ["TRITON_INTERPRET"] = "1"

import torch  # noqa: E402

from sto_lite import records  # noqa: E402
from sto_lite.config import Config  # noqa: E402
from sto_lite.data import Batches, ImageSet, Split  # noqa: E402
from sto_lite.files import write_atomically  # noqa: E402
from sto_lite.fused import FusedSTO  # noqa: E402
from sto_lite.methods import Baseline, Method  # noqa: E402
from sto_lite.speed import graphs  # noqa: E402
from sto_lite.speed.bench import finish  # noqa: E402
from sto_lite.speed.lanes.tiles import TUNED, Shape, Tile, tuned  # noqa: E402
from sto_lite.speed.precision import PRECISIONS  # noqa: E402
from sto_lite.timebox import progress_bar  # noqa: E402
from sto_lite.train import MakeEngine, Training  # noqa: E402

NETS = ("resnet32", "wrn20-2", "resnet110")  # together they hold every shape of Table 1
MINUTES = 9.5  # by default
LEAST = 15  # seconds for which no section is begun
UNENDED = "not ended"


@dataclass
class Setting:
    """What is measured and where.

    steps: of an epoch that is timed. rounds: at least, and for so many seconds. runs: lanes of a launch. most: tiles
    of a shape. count, epochs: images and length of a whole run, as FER-2013's. rows: networks whose rows are timed
    last. marked: runs of a launch for the registered marks. table: for the tuned tiles. limit: seconds of a section.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cuda"))
    nets: tuple[str, ...] = NETS
    size: int = 32
    batch: int = 128
    steps: int = 32
    rounds: int = 10
    runs: tuple[int, ...] = (1, 2, 3, 6, 9)
    precisions: tuple[str, ...] = ("bf16", "float32")
    most: int = 99
    count: int = 28_709
    epochs: int = 300
    folder: Path = ROOT / "data" / "gpu"
    table: Path = TUNED
    seconds: float = 15
    rows: tuple[str, ...] = ("wrn20-2", "resnet50")
    marked: tuple[int, ...] = (3,)
    limit: float = 600


@dataclass
class Section:
    """A part of the report. measure: gives what it has found so far, called with `words`. limit: seconds at most."""

    name: str
    measure: Callable[..., Iterator[dict[str, Any]]]
    words: tuple[Any, ...]
    limit: float


at = Setting()


def rehearsal(folder: Path) -> Setting:
    """A toy for the interpreter, whose bf16 is wrong."""
    cpu = torch.device("cpu")
    table = folder / "tuned.json"
    return Setting(cpu, ("resnet8",), 8, 2, 1, 2, (2,), ("float32",), 2, 2, 1, folder, table, 0, (), (1,))


def card() -> str:
    """The name of what is measured."""
    return torch.cuda.get_device_name() if at.device.type == "cuda" else "rehearsal"


def images(count: int) -> ImageSet:
    """So many images of gray noise, and an eighth as many for tests."""
    dice = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 1, at.size, at.size), generator=dice, dtype=torch.uint8)
    split = Split(pixels, torch.randint(0, 7, (len(pixels),), generator=dice))
    eighth = 1 + count // 8
    test = Split(pixels[:eighth], split.labels[:eighth])
    return ImageSet("noise", tuple("abcdefg"), {"train": split, "test": test})


def batches_of(data: ImageSet) -> Batches:
    """Its training images on the device."""
    return Batches(data.splits["train"], *data.mean_std, at.batch, device=at.device)


def trainings(
    method: Method, net: str, count: int, precision: str, engine: MakeEngine | None = None
) -> list[Any]:
    """Runs that differ in their seed."""
    config, data = Config(net=net, batch_size=at.batch, precision=precision), images(at.steps * at.batch)
    runs = [Training(method, data, replace(config, seed=s), None, at.device, engine) for s in range(count)]
    for run in runs:
        run.build()
    return runs


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "quartiles": [low, high], "rounds": len(values)}


def self_tests(cases: Sequence[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """Whether lanes pass, by network and precision: the tiles that did ("tuned", "default") or none, and faults."""
    from sto_lite.speed.lanes.selftest import proved

    found: dict[str, Any] = {}
    parts = max(1, (os.cpu_count() or 1) // len(cases))
    with compilers() as pool:
        for (net, precision), part in itertools.product(cases, range(parts)):
            pool.submit(compile_step, at, net, precision, part, parts)
    for net, precision in cases:
        began = time.perf_counter()
        tiles, faults = proved(net, precision, at.size, at.batch, at.device, at.table)
        passed = None if tiles is None else "tuned" if tiles else "default"
        seconds = time.perf_counter() - began
        found[f"{net} {precision}"] = {"tiles": passed, "faults": faults, "seconds": seconds}
        yield found


class Idle(Executor):
    """Does nothing."""

    def submit(self, *_: Any, **__: Any) -> Future:
        """A future that is over."""
        done: Future = Future()
        done.set_result(None)
        return done


def compilers() -> Executor:
    """Processes that compile ahead, one for each core; a rehearsal compiles nothing."""
    on_gpu = at.device.type == "cuda"
    return ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) if on_gpu else Idle()


def steps(with_table: bool, sizes: Sequence[int], beside: bool) -> Iterator[dict[str, Any]]:
    """Milliseconds of a step and run, whole epochs with all that the host does: R runs as lanes, beside today's."""
    from sto_lite.speed.lanes.running import Lanes

    net, precision = at.nets[0], at.precisions[0]
    tiles = tuned(card(), at.table) if with_table else {}
    contenders: dict[str, tuple[Callable[[], object], int]] = {}
    for name, method in (("baseline", Baseline()), ("sto", FusedSTO())):
        if beside:
            (run,) = trainings(method, net, 1, precision, graphs.engine(compiled=True))
            contenders[f"{name} today"] = (partial(today, run, batches_of(run.images)), 1)
        for count in sizes:
            members = trainings(method, net, count, precision)
            lanes = Lanes(members, members[0].images, at.device, tiles)
            contenders[f"{name} lanes {count}"] = (lanes.epoch, count)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    order, dice, started = list(contenders), random.Random(0), time.perf_counter()
    for name in order:  # compiles, records
        contenders[name][0]()
        contenders[name][0]()
    while len(times[order[0]]) < at.rounds or time.perf_counter() - started < at.seconds:
        dice.shuffle(order)
        for name in order:
            epoch, count = contenders[name]
            finish(at.device)
            began = time.perf_counter()
            epoch()
            finish(at.device)
            times[name].append(1e3 * (time.perf_counter() - began) / at.steps / count)
        if len(times[order[0]]) > 1:
            yield {name: spread(values) for name, values in times.items()}


def today(run: Training, batches: Batches) -> None:
    """An epoch by the recorded and compiled path."""
    for _ in run.train_epoch(batches, progress_bar(1, 0, False)):
        pass


def shortlist(shape: Shape) -> list[Tile]:
    """Tiles worth a measurement: near the default, within what compiles without spills (--compile)."""
    base = shape.default
    pixels = sorted({base.pixels // 2, base.pixels, base.pixels * 2} - {8, 16})
    pairs = [(p, w) for p in pixels for w in ((2, 4, 8) if p != base.pixels * 2 else (4, 8))]
    if shape.kernel.endswith("weights"):
        pairs += [(base.pixels, 1)]
    tiles = [Tile(p, base.programs, w, base.stages) for p, w in pairs]
    return [base, *(t for t in tiles if t != base)][: at.most]


def operations(plan: Any) -> dict[Shape, Callable[[], object]]:
    """One call for every shape in a plan."""
    n = plan.batch
    found: dict[Shape, Callable[[], object]] = {}
    outputs = [plan.entry, *(unit.out for unit in plan.units)]
    found[Shape("stem_forward", 3, 16)] = partial(plan.convolve, plan.stem, None, n)
    found[Shape("stem_weights", 3, 16)] = partial(plan.weights, plan.stem, plan.entry, None, n)
    for unit, h in zip(plan.units, outputs, strict=False):
        sources = [h, *unit.inner]
        for x, source in [
            *zip(unit.layers, sources, strict=True),
            *([(unit.projection, h)] if unit.projection else []),
        ]:
            shape = (x.ci, x.co, x.taps, x.stride)
            found[Shape("forward", *shape)] = partial(plan.convolve, x, source, n)
            found[Shape("weights", *shape)] = partial(plan.weights, x, x.z, source, n)
            dz, out = plan._scratch("dz", x.z), plan._scratch("inner", source)
            found[Shape("inputs", *shape)] = partial(plan.inputs, x, dz, out, n, None)
        last = unit.layers[-1]
        found[Shape("activate", 0, last.co)] = partial(plan.activate, last, unit.out, n, unit.out)
        found[Shape("sums", 0, last.co)] = partial(plan.sums, last, last.z, n)
    return found


def small_plan(net: str, tiles: dict[str, Tile]) -> Any:
    """Three baseline lanes of a network with two blocks a stage, all shapes of the whole one."""
    from sto_lite.resnet import NETWORKS, ResNet
    from sto_lite.speed.lanes.plan import Plan
    from sto_lite.speed.lanes.running import roles

    model = ResNet(num_classes=7, **{**NETWORKS[net], "blocks_a_stage": 2}).to(at.device)
    dtype = PRECISIONS[at.precisions[0]]
    plan = Plan(model, [roles(Baseline())] * 3, batches_of(images(at.batch)), at.device, dtype, tiles)
    plan.now.fill_(1.0)
    return plan


def compile_only(part: int = 0, parts: int = 1) -> Any:
    """A context in which kernels go into Triton's cache and are not launched: of all, each parts-th."""
    import triton

    launch, numbers = triton.runtime.JITFunction.run, itertools.count()

    def ahead(kernel: Any, *args: Any, **options: Any) -> Any:
        if next(numbers) % parts == part:
            launch(kernel, *args, **{**options, "warmup": True})

    return patch.object(triton.runtime.JITFunction, "run", ahead)


def compile_tiles(setting: Setting, net: str, tiles: dict[str, Tile]) -> None:
    """In a process of its own: compile every operation with these tiles."""
    global at
    at = setting
    with compile_only():
        for call in operations(small_plan(net, tiles)).values():
            call()


def compile_step(setting: Setting, net: str, precision: str, part: int, parts: int) -> None:
    """In a process of its own: compile a share of what the self-test launches."""
    global at
    at = setting
    from sto_lite.speed.lanes.running import Lanes
    from sto_lite.speed.lanes.selftest import trial

    run: Any = trial(net, Config(net=net, precision=precision, batch_size=at.batch), at.device)
    lanes = Lanes([run], images(at.batch), at.device, tuned(card(), at.table))
    with compile_only(part, parts):
        lanes.plan.step(at.batch)


def tile_search(start: int, stop: int) -> Iterator[dict[str, Any]]:
    """Microseconds by tile of every shape that networks start to stop add to those before; the best are kept.

    Programs for each lane stay as they are by default. It ends before its limit, when another round may not fit.
    """
    started = time.perf_counter()
    found: dict[str, dict[str, float | str]] = {}
    rounds: list[tuple[str, dict[str, Tile]]] = []
    known: set[Shape] = set()
    for number, net in enumerate(at.nets[:stop]):
        shapes = [s for s in operations(small_plan(net, {})) if s not in known]
        known |= {*shapes}
        longest = max((len(shortlist(s)) for s in shapes), default=0) if number >= start else 0
        # Round i gives every shape its i-th tile, so that one plan compiles and times them all.
        for i in range(longest):
            rounds.append((net, {s.key: shortlist(s)[i] for s in shapes if i < len(shortlist(s))}))
    with compilers() as pool:
        ahead = [pool.submit(compile_tiles, at, *chosen) for chosen in rounds]
        for future, (net, tiles) in zip(ahead, rounds, strict=True):
            if time.perf_counter() - started > 0.7 * at.limit:
                for rest in ahead:
                    rest.cancel()
                break
            future.exception()  # waits; what does not compile is met, and told, below
            for shape, call in operations(small_plan(net, tiles)).items():
                tile = tiles.get(shape.key)
                if tile is None:
                    continue
                times = found.setdefault(shape.key, {})
                key = str(list(astuple(tile)))
                try:
                    times[key] = microseconds(call)
                except Exception as trouble:  # the compiler's errors are of many kinds
                    times[key] = f"{type(trouble).__name__}: {str(trouble).splitlines()[:1]}"
                    finish(at.device)  # raises where nothing can be launched any more
            note(found)
            yield found


def note(found: dict[str, dict[str, float | str]]) -> None:
    """Write the best tiles into the table."""
    from sto_lite.speed.lanes.selftest import proved

    best: dict[str, Tile] = {}
    for key, times in found.items():
        measured = {tile: t for tile, t in times.items() if isinstance(t, float)}
        if measured:
            best[key] = Tile(*json.loads(min(measured, key=measured.__getitem__)))
    tables = json.loads(at.table.read_text()) if at.table.exists() else {}
    tiles = tables.get(card(), {}) | {key: list(astuple(tile)) for key, tile in best.items()}
    tables[card()] = dict(sorted(tiles.items()))
    write_atomically(at.table, (json.dumps(tables, indent=1) + "\n").encode())
    tuned.cache_clear()
    proved.cache_clear()


def microseconds(call: Callable[[], object], repeats: int = 20) -> float:
    """The median of seven replays of a recording of so many calls, a call; in a rehearsal of one call."""
    if at.device.type == "cpu":
        began = time.perf_counter()
        call()
        return 1e6 * (time.perf_counter() - began)
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            call()
    times = []
    for _ in range(7):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(1e3 * begin.elapsed_time(end) / repeats)
    return statistics.median(times)


def whole_runs(net: str, methods: Sequence[Method], seeds: int, part: int) -> Iterator[dict[str, Any]]:
    """Seconds of runs in one launch with an evaluation each tenth epoch, of so many seeds, for a part of the epochs.

    The self-test is made before; what else compiles and records counts.
    """
    from sto_lite.speed.lanes import together
    from sto_lite.speed.lanes.selftest import proved

    data, epochs = images(at.count), max(1, at.epochs // part)
    config = Config(net=net, epochs=epochs, evaluate_every=10, batch_size=at.batch)
    config = replace(config, precision=at.precisions[0])
    chosen = [(method, replace(config, seed=seed)) for method in methods for seed in range(seeds)]
    runs = [Training(method, data, c, None, at.device) for method, c in chosen]
    proved(net, config.precision, at.size, min(at.batch, at.count), at.device)
    began = time.perf_counter()
    for _, end in together.train(runs):
        if isinstance(end, Exception):
            raise end
    name = " and ".join(method.name for method in methods)
    yield {f"{name}, seeds {seeds}, epochs {epochs}": time.perf_counter() - began}


def convolutions() -> Iterator[dict[str, Any]]:
    """Microseconds of cuDNN's convolutions, forward and the two gradients, by shape, precision and search."""
    found: dict[str, Any] = {}
    shapes = [(16, 16, 1, 32), (16, 32, 2, 32), (32, 32, 1, 16), (32, 64, 2, 16), (64, 64, 1, 8)]
    for search in (False, True):
        torch.backends.cudnn.benchmark = search
        for dtype, name in ((torch.bfloat16, "bf16"), (torch.float16, "fp16"), (torch.float32, "tf32")):
            for ci, co, stride, size in shapes:
                x = torch.randn(at.batch, ci, size, size, device=at.device, dtype=dtype)
                w = torch.randn(co, ci, 3, 3, device=at.device, dtype=dtype)
                x, w = (t.to(memory_format=torch.channels_last) for t in (x, w))
                forward = partial(torch.nn.functional.conv2d, x, w, stride=stride, padding=1)
                gradient = partial(
                    torch.ops.aten.convolution_backward,
                    *(forward(), x, w, None, [stride] * 2, [1, 1], [1, 1], False, [0, 0], 1),
                )
                found[f"{name} {ci} {co} {stride} {size} {'search' if search else 'no search'}"] = {
                    "forward": microseconds(forward),
                    "inputs": microseconds(partial(gradient, [True, False, False])),
                    "weights": microseconds(partial(gradient, [False, True, False])),
                }
            yield found


def sections() -> list[Section]:
    """In the order of their worth: the registered marks (gpu-marks) first."""
    first, rest, best, row = at.nets[0], at.nets[1:], at.precisions[0], (Baseline(), FusedSTO())
    marks = (row[1:], 1, 1), (row, 3, 10)
    found = [
        Section(f"self-test {best}", self_tests, ([(first, best)],), 180),
        Section("whole run of STO, s", whole_runs, (first, *marks[0]), 200),
        Section("marks, ms", steps, (False, at.marked, False), 90),
        Section("row, s", whole_runs, (first, *marks[1]), 150),
        Section("steps, ms, default tiles", steps, (False, at.runs, True), 200),
        Section("tiles, µs", tile_search, (0, 1), 200),
        Section("self-test, tuned tiles", self_tests, ([(first, best)],), 120),
        Section("steps, ms, tuned tiles", steps, (True, at.runs, True), 200),
    ]
    if rest:
        found += [
            Section(f"self-test {best}, other nets", self_tests, ([(net, best) for net in rest],), 240),
            Section("tiles, µs, other nets", tile_search, (1, len(at.nets)), 240),
        ]
    found += [Section(f"row of {net}, s", whole_runs, (net, row, 3, 30), 200) for net in at.rows]
    for precision in at.precisions[1:]:
        cases = [(net, precision) for net in at.nets]
        found.append(Section(f"self-test {precision}", self_tests, (cases,), 300))
    return [*found, Section("convolutions of cuDNN, µs", convolutions, (), 120)]


def measure(plan: Sequence[Section], end: float) -> Path:
    """Every section that an old report lacks or that failed there, until time.monotonic() is `end`; gives the report.

    A section's error stands in the report, and the next one has a process of its own.
    """
    from sto_lite.speed.lanes.compiling import fingerprint

    path = at.folder / f"{card().replace(' ', '-')}.json"
    head = {"environment": records.environment(at.device), "kernels": fingerprint()}
    old: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    report = head | (
        {name: found for name, found in old.items() if name not in head} if same(old, head) else {}
    )
    left = [section for section in plan if "error" in report.get(section.name, {"error": ""})]
    while left and (rest := end - time.monotonic()) > LEAST:
        section, began = left.pop(0), time.monotonic()
        report["not begun"] = [other.name for other in left]
        with closing(apart(section, min(section.limit, rest))) as progress:
            for found in progress:
                report[section.name] = found
                keep(path, report)
        told = report[section.name].get("error", path)
        print(f"{section.name}: {time.monotonic() - began:.0f} s, {told}", flush=True)
    report["not begun"] = [section.name for section in left]
    keep(path, report)
    for section in left:
        print(f"{section.name}: not begun, there is no time left", flush=True)
    return path


def same(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether a report is of this card, software and kernels; a table of tiles alone makes another revision."""
    ours, theirs = ({**r.get("environment", {}), "revision": r.get("kernels")} for r in (new, old))
    return ours == theirs


def apart(section: Section, seconds: float) -> Generator[dict[str, Any], None, None]:
    """What a section finds in a process of its own, which ends after so long; "error" until it has ended well."""
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(section, replace(at, limit=seconds), theirs))
    end, told, found = time.monotonic() + seconds, UNENDED, {}
    process.start()
    theirs.close()
    try:
        yield {"error": UNENDED}
        while True:
            if not ours.poll(max(0.0, end - time.monotonic())):
                told = f"cut off after {seconds:.0f} s"
                break
            told = ours.recv()
            if isinstance(told, str):
                break
            found = told
            yield {**found, "error": UNENDED}
    except EOFError:
        told = "its process died"
    finally:
        if told == "":
            process.join(10)
        process.kill()
        if process.pid:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its compilers
        process.join()
    yield {**found, "error": told} if told else found


def work(section: Section, setting: Setting, told: Connection) -> None:
    """In a process of its own: send all that a section finds, and at its end its error, or an empty text."""
    global at
    at = setting
    os.setpgrp()
    try:
        for found in section.measure(*section.words):
            told.send(found)
    except Exception as trouble:
        told.send(f"{type(trouble).__name__}: {trouble}"[:2000])
    else:
        told.send("")


def keep(path: Path, report: dict[str, Any]) -> None:
    """Write what was found so far."""
    write_atomically(path, (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())


def compile_all(capabilities: Sequence[int]) -> None:
    """What the compiler makes of every kernel of Table 1, for cards of these compute capabilities."""
    from sto_lite.speed.lanes.compiling import examine, fingerprint, launches

    path = at.folder / "compiled.json"
    report: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if report.get("fingerprint") != fingerprint():
        report = {"fingerprint": fingerprint(), "kernels": {}}
    import triton

    report["triton"] = triton.__version__
    for capability in capabilities:
        for net in NETS:
            for launch in launches(net, FusedSTO()):
                name = f"sm_{capability} {launch.name}"
                if name not in report["kernels"]:
                    report["kernels"][name] = examine(launch, capability)
                    print(name, report["kernels"][name], flush=True)
            lines = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in report["kernels"].items())
            head = {k: v for k, v in report.items() if k != "kernels"}
            text = json.dumps(head)[:-1] + f',\n "kernels": {{\n{lines}\n}}}}\n'
            write_atomically(path, text.encode())


def main(words: Sequence[str] | None = None) -> int:
    """The command."""
    global at
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help=f"to take at most (default: {MINUTES})"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="for the report and the tiles (default: where the book reads them)",
    )
    parser.add_argument(
        "--compile", action="store_true", help="only compile, for sm_80 and sm_90; needs no GPU"
    )
    parser.add_argument("--rehearse", action="store_true", help="every section as a toy; needs no GPU")
    options = parser.parse_args(words)
    if options.compile:
        compile_all((90, 80))
        return 0
    if options.rehearse:
        return rehearse()
    if not torch.cuda.is_available():
        print(
            "tools/gpu.py: there is no CUDA GPU to measure; --compile and --rehearse need none",
            file=sys.stderr,
        )
        return 1
    if options.out:
        at = replace(at, folder=options.out, table=options.out / "tuned.json")
    at.folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a section's process ends too
    measure(sections(), BEGUN + 60 * options.minutes)
    return 0


def rehearse() -> int:
    """Run every section in the interpreter; status 1 if anything in it failed."""
    global at
    with tempfile.TemporaryDirectory() as folder:
        at = rehearsal(Path(folder))
        plan = [replace(section, limit=3600) for section in sections()]  # the interpreter takes its time
        text = measure(plan, math.inf).read_text(encoding="utf-8")
        return int(any(sign in text for sign in ("Error", '"error"', '"tiles": null')))


if __name__ == "__main__":
    raise SystemExit(main())
