"""Compile the Triton kernel ahead of time, without a GPU, and count what a GPU would execute.

    python benchmarks/kernel_table.py --out benchmarks/results/kernels.json   # adds the missing rows
    python benchmarks/kernel_table.py --check "plain, bfloat16, sm_90" ...    # compares rows with the table

A row is a variant that `smile_synth.compositing.render` can request: a version of the kernel, an output type,
the labels, a GPU architecture. Frames have sides that are multiples of 16. Machine instructions (SASS) are
counted; Triton's wheel includes ptxas and nvdisasm. Rows are written one by one: a run that was stopped
continues. A changed kernel needs ``--anew``.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    os.environ.pop("TRITON_INTERPRET", None)  # read when Triton is first imported

import record
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from smile_synth.compositing import _triton
from smile_synth.compositing._triton import Batch

TABLE = Path(__file__).parent / "results" / "kernels.json"
NVDISASM = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
TYPES = {"bfloat16": "bf16", "uint8": "u8", "float32": "fp32", "float16": "fp16"}
LABELS = {"": (), "segmentation": ("owners",), "coverage": ("counts",), "both labels": ("owners", "counts")}
# A row may exceed the table by this share, and by 8 registers; spills may not appear.
TOLERANCE = 0.03
INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)")
SOURCE = re.compile(r'"([^"]+)", line (\d+)')
CONVERSION = re.compile(r"(I2F|F2I|F2F|FRND|MUFU)\b")  # slower than others
# Offsets of 32 bits from an argument; the table of light, of 512 numbers, has one.
NARROW = re.compile(r"tt\.addptr %(?:frames|owners|counts|batch)[\w.]*, %\S+ : \S+, i32")
FLOAT64 = re.compile(r"D(ADD|MUL|FMA|SETP|MNMX|SET)\b|MUFU\.\w*64|[\w.]*\.F64")


def variants() -> list[str]:
    """Return the names of all rows, those of the most used versions first."""
    return [
        ", ".join(part for part in (version, kind, labels, f"sm_{arch}") if part)
        for arch, labels, kind, version in product(
            (90, 80, 100), LABELS, TYPES, ("plain", "general", "effects")
        )
    ]


def compile_variant(name: str) -> Any:
    """Compile the kernel for one row's name."""
    version, kind, *labels, arch = name.split(", ")
    outputs = LABELS[labels[0] if labels else ""]
    fields = {"first": "*i64", "subframes": "*i64", "ints": "*i64", "reals": "*fp64", "bank": "*i32"}
    fields |= {"extra": "*i32", "effect_ints": "*i64", "effect_reals": "*fp64", "table": "*fp32"}
    types: dict[str, Any] = {"frames": f"*{TYPES[kind]}", "owners": "*i16", "counts": "*i32"}
    types |= {"batch": Batch(**fields), "size_hw": ("i32", "i32"), "scale": ("fp32",) * 3}
    types |= {"shift": ("fp32",) * 3, "num_frames": "i32", "tokens": ("i32", "i32"), "PLAIN": "constexpr"}
    place = {argument: index for index, argument in enumerate(_triton._kernel.arg_names)}
    constants: dict[tuple[int, ...], Any] = {(place["PLAIN"],): version == "plain"}
    for missing in {"owners", "counts"} - set(outputs):
        types[missing], constants[(place[missing],)] = "constexpr", None
    if version != "effects":
        for missing in ("effect_ints", "effect_reals", "table"):
            constants[(place["batch"], Batch._fields.index(missing))] = None
            types["batch"] = types["batch"]._replace(**{missing: "constexpr"})
    # As Triton finds when the kernel is launched: pointers and sizes are multiples of 16.
    paths = [(place[output],) for output in ("frames", *outputs)]
    paths += [(place["batch"], i) for i, kind in enumerate(types["batch"]) if kind != "constexpr"]
    paths += [(place["size_hw"], 0), (place["size_hw"], 1), (place["num_frames"],)]
    aligned = dict.fromkeys(paths, [["tt.divisibility", 16]])
    source = ASTSource(_triton._kernel, types, constants, aligned)
    target = GPUTarget("cuda", int(arch.removeprefix("sm_")), 32)
    return compile(source, target=target, options=_triton.compile_options(version == "plain"))


def measure(name: str) -> dict[str, Any]:
    """Return the counts of one row.

    ``parts`` are the instructions of each function of the kernel's source, the float64 instructions among
    them, and the conversions among them.
    """
    began = time.process_time()
    kernel = compile_variant(name)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        text = subprocess.run([NVDISASM, "-gi", "-c", file.name], capture_output=True, text=True, check=True)
        usage = subprocess.run(
            [NVDISASM.with_name("cuobjdump"), "--dump-resource-usage", file.name],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    functions = {
        line: node.name
        for node in ast.parse(Path(_triton.__file__).read_text()).body
        if isinstance(node, ast.FunctionDef)
        for line in range(node.lineno, (node.end_lineno or 0) + 1)
    }
    operations, parts = Counter[str](), dict[str, list[int]]()
    function, below_code = "", True
    for line in text.stdout.splitlines():
        if line.lstrip().startswith("//##"):
            # The innermost line of our own file, of a chain of inlined calls.
            if below_code:
                function, below_code = "", False
            found = [int(n) for file, n in SOURCE.findall(line) if file.endswith("_triton.py")]
            function = function or (functions.get(found[0], "") if found else "")
        elif match := INSTRUCTION.match(line):
            below_code = True
            operations[match[1]] += 1
            counts = parts.setdefault(function, [0, 0, 0])
            for place, counted in enumerate((True, FLOAT64.match(match[1]), CONVERSION.match(match[1]))):
                counts[place] += bool(counted)
    used = dict(re.findall(r"(REG|STACK|SHARED):(\d+)", usage))
    return {
        "registers": int(used["REG"]),
        "spills": sum(n for op, n in operations.items() if op.startswith(("LDL", "STL"))),
        "stack": int(used["STACK"]),
        "shared": kernel.metadata.shared,
        "instructions": operations.total(),
        "float64": sum(n for op, n in operations.items() if FLOAT64.match(op)),
        "narrow": len(NARROW.findall(kernel.asm["ttir"])),
        "conversions": sum(n for op, n in operations.items() if CONVERSION.match(op)),
        "parts": parts,
        "seconds": round(time.process_time() - began, 1),
    }


def worse(name: str, row: dict[str, Any], known: dict[str, Any]) -> list[str]:
    """Return in words where a row is worse than the known one."""
    limits = {key: known[key] * (1 + TOLERANCE) for key in ("instructions", "float64")}
    limits |= {key: known[key] for key in ("spills", "stack", "shared", "narrow")}
    limits["registers"] = known["registers"] + 8
    return [
        f"{name}: {key} {row[key]}, the table has {known[key]}" for key in limits if row[key] > limits[key]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=TABLE)
    parser.add_argument("--anew", action="store_true", help="compile all rows again")
    parser.add_argument("--only", default="", help="rows whose names match this regular expression")
    parser.add_argument(
        "--check", nargs="+", metavar="ROW", help="compare rows with the table; write nothing"
    )
    arguments = parser.parse_args()
    rows: dict[str, Any] = {}
    if arguments.out.exists() and not arguments.anew:
        rows = json.loads(arguments.out.read_text())["rows"]
    if arguments.check:
        faults = [fault for name in arguments.check for fault in worse(name, measure(name), rows[name])]
        sys.exit("\n".join(faults) or 0)
    for name in variants():
        if name not in rows and re.search(arguments.only, name):
            rows[name] = measure(name)
            print(f"{name}: {rows[name]}", flush=True)
            ordered = {known: rows[known] for known in variants() if known in rows}
            record.write(arguments.out, {"tolerance": TOLERANCE, "rows": ordered})


if __name__ == "__main__":
    main()
