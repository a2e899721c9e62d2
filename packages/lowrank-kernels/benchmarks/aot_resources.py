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

from lowrank_kernels import _linear_triton as kernels

ARCHITECTURES = (80, 90)
TYPES = {"fp32": 4, "fp16": 2, "bf16": 2}
STRIDES = ("x_row", "x_col", "d_row", "d_col", "u_row", "u_col", "w_row", "w_col", "y_row")
ALIGNED = [["tt.divisibility", 16]]


def source(
    kernel: Any, dtype: str, tiles: kernels.Tiles, *, aligned: bool, bias: bool
) -> ASTSource:
    """Return the kernel for one dtype: aligned rows with unit columns, or any strides at all."""
    constants: dict[str, Any] = {
        "HAS_BIAS": bias, "PRECISION": "ieee", "ROWS": tiles.rows, "OUTS": tiles.columns,
        "DEPTH": tiles.depth, "RANKS": kernels.FUSED_BLOCK_RANK,
    }  # fmt: skip
    if aligned:
        constants |= {"x_col": 1, "d_col": 1, "u_col": 1, "w_col": 1}
    constants = {name: constants[name] for name in kernel.arg_names if name in constants}
    signature = {name: "constexpr" if name in constants else _type(name, dtype)
                 for name in kernel.arg_names}  # fmt: skip
    divisible = ("X", "D", "U", "W", "B", "Y", "n", *STRIDES) if aligned else ()
    attributes = {
        (i,): ALIGNED
        for i, name in enumerate(kernel.arg_names)
        if name in divisible and name not in constants
    }
    return ASTSource(kernel, signature, {(kernel.arg_names.index(k),): v for k, v in
                     constants.items()}, attributes)  # fmt: skip


def _type(name: str, dtype: str) -> str:
    return f"*{dtype}" if name in ("X", "D", "U", "W", "B", "Y") else "i32"


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
    table = {"fused": (kernels.fused_kernel, kernels.FUSED),
             "product": (kernels.product_kernel, kernels.PRODUCT)}  # fmt: skip
    for name, (kernel, tiles) in table.items():
        for dtype, size in TYPES.items():
            for aligned in (True, False):
                for arch in ARCHITECTURES:
                    row = {
                        "kernel": name,
                        "dtype": dtype,
                        "tile": "x".join(map(str, tiles[size][:3])),
                        "strides": "aligned" if aligned else "any",
                        "arch": f"sm_{arch}",
                    }
                    yield row | compiled(kernel, dtype, tiles[size], aligned, arch)


def compiled(
    kernel: Any, dtype: str, tiles: kernels.Tiles, aligned: bool, arch: int
) -> dict[str, Any]:
    try:
        result = triton.compile(
            source(kernel, dtype, tiles, aligned=aligned, bias=True),
            target=GPUTarget("cuda", arch, 32),
            options=kernels.options(tiles),
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
    print("  ".join(f"{name:>12}" for name in table[0]))
    for row in table:
        print("  ".join(f"{value!s:>12}" for value in row.values()))
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
