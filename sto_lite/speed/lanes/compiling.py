"""What Triton makes of the kernels for a card, on a machine without one: registers, spills, memory, instructions."""

import ast
import hashlib
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sto_lite.data import Batches, Split
from sto_lite.methods import Method
from sto_lite.speed.lanes import ends, kernels
from sto_lite.speed.lanes.plan import Plan
from sto_lite.speed.lanes.running import roles
from sto_lite.speed.lanes.tiles import Tile

COUNTED = ("HGMMA", "HMMA", "LDG", "LDG.E.128", "LDG.E.64", "LDL", "STL")  # instructions
TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.uint8: "*u8",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


class Launch(NamedTuple):
    """One way a kernel is launched: types by argument, which are divisible by 16, constants, options."""

    kernel: Any
    types: tuple[tuple[str, str], ...]
    aligned: tuple[str, ...]
    constants: tuple[tuple[str, Any], ...]
    options: tuple[tuple[str, int], ...]

    @property
    def name(self) -> str:
        """The kernel with what shapes it; launches that differ only in tiles for each program share it."""
        shown = ("CI", "CO", "C", "ST", "T", "G", "RES", "MASK", "SPREAD", "BM")
        shape = {k: v for k, v in self.constants if k in shown} | {"warps": dict(self.options)["num_warps"]}
        return " ".join([self.kernel.fn.__name__, *(f"{k}={int(v)}" for k, v in shape.items())])


def launches(net: str, method: Method, dtype: torch.dtype = torch.bfloat16, size: int = 32, batch: int = 128,
             tiles: dict[str, Tile] | None = None) -> list[Launch]:  # fmt: skip
    """Every different launch in a step of a network, without a device."""
    meta = torch.device("meta")
    split = Split(torch.zeros(batch, 1, size, size, dtype=torch.uint8), torch.zeros(batch, dtype=torch.int64))
    with meta:
        batches = Batches(split, torch.zeros(1), torch.ones(1), batch, device=meta)
        model = method.build(net, 7)
        plan = Plan(model, [roles(method)], batches, meta, dtype, tiles or {})  # type: ignore[arg-type]
    plan.precision = "tf32"
    found: dict[Launch, None] = {}

    def note(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        found[launch(kernel, args, options)] = None

    with patch.object(triton.runtime.JITFunction, "run", note):
        plan.step(batch)
    return list(found)


def launch(kernel: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Launch:
    """A launch as the just-in-time compiler would see it."""
    names = kernel.arg_names
    anywhere = {p.name for p in kernel.params if p.do_not_specialize_on_alignment}
    given = dict(zip(names, args, strict=False)) | {k: v for k, v in options.items() if k in names}
    types, aligned, constants = [], [], []
    for name in names:
        value = given[name]
        if isinstance(value, Tensor):
            types.append((name, TYPES[value.dtype]))
            if name not in anywhere and value.storage_offset() * value.element_size() % 16 == 0:
                aligned.append(name)
        elif name in options or (value == 1 and isinstance(value, int)):
            constants.append((name, value))
        else:
            types.append((name, "fp32" if isinstance(value, float) else "i32"))
            if isinstance(value, int) and value % 16 == 0:
                aligned.append(name)
    rest = {"num_warps": 4, **{k: v for k, v in options.items() if k not in names}}
    return Launch(kernel, tuple(types), tuple(aligned), tuple(constants), tuple(sorted(rest.items())))


def examine(found: Launch, capability: int) -> dict[str, int]:
    """Compile a launch for a compute capability (80, 90): registers, stack, shared memory (bytes), instructions."""
    kernel, names = found.kernel, found.kernel.arg_names
    constants = dict(found.constants)
    signature = {name: "constexpr" if name in constants else dict(found.types)[name] for name in names}
    source = ASTSource(
        kernel,
        signature,
        {(names.index(name),): value for name, value in constants.items()},
        {(names.index(name),): [["tt.divisibility", 16]] for name in found.aligned},
    )
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=dict(found.options))
    usage, code = dissect(made.asm["cubin"])
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", usage).groups()  # type: ignore[union-attr]
    counts = {word: len(re.findall(rf"\b{re.escape(word)}\b", code)) for word in COUNTED}
    return {
        "registers": int(registers),
        "stack": int(stack),
        "shared": made.metadata.shared,
        **{k: v for k, v in counts.items() if v},
    }


def dissect(cubin: bytes) -> tuple[str, str]:
    """What the tools in Triton's wheel say of a compiled kernel: its resources, and its instructions."""
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)

        def told(*command: str) -> str:
            return subprocess.run(
                [tools / command[0], *command[1:], path], capture_output=True, text=True, check=True
            ).stdout

        return told("cuobjdump", "--dump-resource-usage"), told("nvdisasm", "-c")


def fingerprint() -> str:
    """16 hexadecimal digits of the kernels' source; comments and docstrings do not count."""
    digest = hashlib.sha256()
    for module in (kernels, ends):
        tree = ast.parse(Path(str(module.__file__)).read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.FunctionDef) and ast.get_docstring(node) is not None:
                node.body = node.body[1:]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:16]
