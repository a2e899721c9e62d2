"""Compile every Triton kernel for sm_80 and sm_90 without a GPU and print what it would use.

Ends with status 1 when a kernel does not compile or spills registers.

    python aot_resources.py [--csv PATH]
"""

import argparse
import csv
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from lowrank_kernels import (
    _product_triton as products,
    _staircase_kernels_triton as staircase,
    _tiles,
)
from lowrank_kernels._tiles import Tiles

ARCHITECTURES = (80, 90)
TYPES = {"fp32": 4, "fp16": 2, "bf16": 2}
NUMBERS = frozenset("XDUWBCYHG")  # pointers to the dtype of the product
OTHERS = {"RANKS": "*i32", "ORDER": "*i64", "COUNTS": "*i32"}
ALIGNED = [["tt.divisibility", 16]]
# all that a kernel can do is switched on: what is off uses less
FLAGS = {
    "HAS_BIAS": True, "HAS_INNER": True, "ON_DEVICE": True, "WHOLE": True, "CUT": 2,
    "ACTIVATION": 2, "PRECISION": "ieee", "RANK": _tiles.FUSED_BLOCK_RANK,
}  # fmt: skip
# name -> kernel, tiles, what is different from FLAGS
KERNELS: dict[str, tuple[Any, dict[int, tuple[Tiles, ...]], dict[str, Any]]] = {
    "fused": (products.fused_kernel, _tiles.FUSED, {}),
    "product": (products.product_kernel, _tiles.PRODUCT, {}),
    "product, rows cut": (products.product_kernel, _tiles.PRODUCT, {"CUT": 1, "HAS_BIAS": False}),
    "product, depth cut": (products.product_kernel, _tiles.PRODUCT, {"CUT": 3}),
    "descend": (staircase.descend_kernel, _tiles.STAIRCASE, {}),
    "climb": (staircase.climb_kernel, _tiles.STAIRCASE, {}),
    "weigh": (staircase.weigh_kernel, _tiles.STAIRCASE, {}),
}


def source(
    kernel: Any, dtype: str, tiles: Tiles, flags: dict[str, Any], *, aligned: bool
) -> ASTSource:
    """Return the kernel for one dtype: aligned rows with unit columns, or any strides at all."""
    cuts = {"ROWS": tiles.rows, "COLUMNS": tiles.columns, "DEPTH": tiles.depth}
    given: dict[str, Any] = FLAGS | flags | cuts
    names = kernel.arg_names
    if aligned:
        given |= {name: 1 for name in names if name.endswith("_col")}
    constants = {name: given[name] for name in names if name in given}
    signature = {name: "constexpr" if name in constants else _type(name, dtype) for name in names}
    aligned_names = [
        name
        for name in names
        if aligned and name not in constants and (name == "n" or name.isupper() or "_" in name)
    ]
    attributes = {(names.index(name),): ALIGNED for name in aligned_names if name != "N"}
    return ASTSource(kernel, signature, {(names.index(k),): v for k, v in constants.items()},
                     attributes)  # fmt: skip


def _type(name: str, dtype: str) -> str:
    return f"*{dtype}" if name in NUMBERS else OTHERS.get(name, "i32")


def usage(cubin: bytes) -> tuple[int, int]:
    """Return registers a thread and bytes of local memory, where spilled registers go."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [tool, "-res-usage", file.name]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack, local = (int(re.findall(rf"\b{key}:(\d+)", report)[-1])
                               for key in ("REG", "STACK", "LOCAL"))  # fmt: skip
    return registers, stack + local


def rows() -> Iterator[dict[str, Any]]:
    for name, (kernel, by_size, flags) in KERNELS.items():
        for dtype, size in TYPES.items():
            for i, tiles in enumerate(by_size[size]):
                # other tiles are tried by the tuner; any strides take the default
                for aligned in (True, False) if i == 0 else (True,):
                    for arch in ARCHITECTURES:
                        row = {
                            "kernel": name,
                            "dtype": dtype,
                            "tile": "x".join(map(str, tiles[:3])),
                            "default": "yes" if i == 0 else "no",
                            "strides": "aligned" if aligned else "any",
                            "arch": f"sm_{arch}",
                        }
                        yield row | compiled(kernel, dtype, tiles, flags, aligned, arch)


def compiled(
    kernel: Any, dtype: str, tiles: Tiles, flags: dict[str, Any], aligned: bool, arch: int
) -> dict[str, Any]:
    try:
        result = triton.compile(
            source(kernel, dtype, tiles, flags, aligned=aligned),
            target=GPUTarget("cuda", arch, 32),
            options=tiles.options(),
        )
        registers, spills = usage(result.asm["cubin"])
    except Exception as error:
        # any failure is a row of the table, and the status of the run
        return {"registers": "-", "spill_bytes": "-", "shared_bytes": "-", "failure": repr(error)}
    shared = result.metadata.shared
    return {"registers": registers, "spill_bytes": spills, "shared_bytes": shared, "failure": ""}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--csv", type=Path, help="write the table here as well")
    path = parser.parse_args().csv
    table = list(rows())
    print(f"triton {triton.__version__}")
    print("  ".join(f"{name:>18}" for name in table[0]))
    for row in table:
        print("  ".join(f"{value!s:>18}" for value in row.values()))
    if path:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(table[0]))
            writer.writeheader()
            writer.writerows(table)
    bad = [row for row in table if row["failure"] or row["spill_bytes"]]
    print(f"{len(table)} compilations, {len(bad)} failed or spilling")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
