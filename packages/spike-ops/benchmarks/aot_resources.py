"""Compile every Triton kernel for sm_80 and sm_90 without a GPU and print what it would use.

Of the kernel that adds, the loop is read in PTX and in the machine's own instructions: it may add,
move, shift and compare, but not multiply, and nowhere in the kernel are floats multiplied. Ends
with status 1 when a kernel does not compile or spills registers, and when one multiplies that
should not, or the check sees no products in those that do.

    python aot_resources.py [--csv PATH] [--only NAME]
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

from spike_ops._triton import (
    _bits,
    _lif_kernels as lif,
    _lif_ops,
    _linear_lif_kernel,
    _linear_lif_ops,
    _product_kernels as kernels,
    _products,
    _surrogates,
)
from spike_ops._triton._products import Tiles
from spike_ops.surrogate import Gaussian, MultiGaussian

ARCHITECTURES = (80, 90)
TYPES = {"fp32": 4, "fp16": 2, "bf16": 2}
POINTERS = {
    "P": "*u8", "INDEX": "*i32", "MASKS": "*i32", "OFFSETS": "*i64", "FOUND": "*i32",
    "COUNT": "*i64",
}  # fmt: skip
# pointers to the dtype
FLOATS = frozenset(["X", "W", "B", "Y", "V", "S", "LAST", "GS", "GV", "GX", "FIRST"])
SCALARS = {"limit": "i64"} | dict.fromkeys(
    ["beta", "gain", "offset", "threshold", "v_reset", "support", "peak", "a", "b", "c"], "fp32"
)
ALIGNED = [["tt.divisibility", 16]]
BITS = Tiles(0, 0, 0, 4, 1)
AHEAD = {"AHEAD": _products.AHEAD}
LIF_TILES = dict.fromkeys(
    (4, 2), Tiles(0, 0, 0, _lif_ops.OPTIONS["num_warps"], _lif_ops.OPTIONS["num_stages"])
)
LIF = {
    "RESET": 2, "STRICT": False, "DETACH": False, "DENSE": True, "PACKED": True,
    "WHOLE_BYTES": True,
}  # fmt: skip
# the longest derivative; bytes hold none that is negative somewhere
SLOPES = {kept: _surrogates.NUMBERS[Gaussian if kept == "bytes" else MultiGaussian]
          for kept in lif.KEPT}  # fmt: skip


def kept_as(kept: str) -> dict[str, int]:
    """Return what a LIF kernel is told about what it keeps."""
    return {"KEEP": lif.KEPT[kept], "SURROGATE": SLOPES[kept]}


ONE = {"STEPS": 1, "depth": 1, "width": 1, "IN_BYTES": False, "WHOLE_BYTES": False}


def linear_lif(
    place: int, kept: str, *, bits: bool, one: bool = False
) -> tuple[Any, dict[int, Tiles], dict[str, Any]]:
    """Return the kernel of a linear layer and LIF in its widest tiles (place 0) or narrower."""
    found = (_linear_lif_ops.SINGLE if one else _linear_lif_ops.TILES).items()
    tiles = {size: each[place] for size, each in found if place < len(each)}
    flags = LIF | kept_as(kept) | {"BITS": bits, "IN_BYTES": bits, "BIAS": True, "DENSE": False}
    flags |= ONE if one else {"STEPS": _linear_lif_ops.STEPS}
    return _linear_lif_kernel.linear_lif_kernel, tiles, flags


# name -> kernel, tiles by bytes of an element, what is switched on
KERNELS: dict[str, tuple[Any, dict[int, Tiles], dict[str, Any]]] = {
    "pack": (_bits.pack_kernel, {4: BITS, 2: BITS}, {"BYTES": _bits.BYTES}),
    "unpack": (_bits.unpack_kernel, {4: BITS, 2: BITS}, {"BYTES": _bits.BYTES}),
    "count": (_bits.count_kernel, {4: BITS}, {"BYTES": _bits.COUNTED}),
    "packed": (kernels.packed_kernel, _products.TILES, {"WHOLE_BYTES": True, "GUARD": 1}),
    "packed, any bits": (kernels.packed_kernel, _products.TILES, {"WHOLE_BYTES": False}),
    "compact": (kernels.compact_kernel, _products.TILES, {"GUARD": 2}),
    "union": (
        kernels.union_kernel,
        {4: Tiles(_products.TILES[4].rows, *_products.UNION[1:])},
        {"EVENTS": False, "GUARD": 2},
    ),
    "union, events": (kernels.union_kernel, {4: _products.EVENT_UNION}, {"EVENTS": True}),
    **{
        f"lif, {kept}": (lif.lif_forward_kernel, LIF_TILES, LIF | kept_as(kept))
        for kept in lif.KEPT
    },
    **{
        f"lif backward, {kept}": (lif.lif_backward_kernel, LIF_TILES, LIF | kept_as(kept))
        for kept in lif.KEPT
        if kept != "nothing"
    },
    **{f"linear lif, {kept}": linear_lif(0, kept, bits=True) for kept in lif.KEPT},
    "linear lif, dense": linear_lif(0, "membrane", bits=False),
    "linear lif, narrower": linear_lif(1, "membrane", bits=True),
    "linear lif, narrowest": linear_lif(2, "membrane", bits=True),
    # sizes of one are constants of a kernel, which must compile with them
    "linear lif, one step": linear_lif(0, "bits", bits=True, one=True),
    "event": (kernels.event_kernel, {4: _products.EVENT, 2: _products.EVENT}, AHEAD),
}
ADDITIONS_ONLY = frozenset({"event"})
MULTIPLYING = frozenset({"packed", "compact"})  # what the check must find products in
# a unit for products also moves (0 * 0 + x), adds with a carry and shifts (x * 2^16): no products
NO_PRODUCT = re.compile(
    r"IMAD\.(MOV|SHL|IADD)\b|IMAD[.\w]* R\d+, (P\d+, )?RZ, RZ,"
    r"|IMAD\.U32 R\d+, R\d+, 0x10000, RZ|HFMA2(\.MMA)? R\d+, -RZ, RZ,"
)
PRODUCT = re.compile(r"\bU?[FDHXIQ]?(MUL|MAD|FMA|MMA|GMMA)[0-9]*\b")
FLOAT_PRODUCT = re.compile(r"\b[FDH](MUL|FMA|MMA|GMMA)2?\b")
PTX_PRODUCT = re.compile(r"\b(mul|mad|fma|mma|wgmma|dp4a)\b")


def source(kernel: Any, dtype: str, tiles: Tiles, flags: dict[str, Any]) -> ASTSource:
    """Return the kernel for one dtype, with rows and addresses that are aligned."""
    given: dict[str, Any] = {
        "GUARD": 0, "SLICED": dtype == "fp32", "CARRIER": triton.language.bfloat16,
        "BYTES": _lif_ops.BYTES[TYPES[dtype]], "ROWS": tiles.rows, "COLUMNS": tiles.columns,
        "DEPTH": tiles.depth, "w_col": 1,
    }  # fmt: skip
    given |= flags
    given["BATCH"] = tiles.rows // given.get("STEPS", 1)
    names = kernel.arg_names
    constants = {name: given[name] for name in names if name in given}
    signature = {name: "constexpr" if name in constants else _type(name, dtype) for name in names}
    if "KEEP" in constants:
        signature["K"] = f"*{dtype}" if constants["KEEP"] == lif.KEPT["membrane"] else "*u8"
    sizes = {"w_row", "size", "depth", "width"}
    aligned = {(i,): ALIGNED for i, name in enumerate(names)
               if name not in constants and ((name.isupper() and len(name) > 1)
                                             or name in "PWYKXSVB" or name in sizes)}  # fmt: skip
    return ASTSource(kernel, signature, {(names.index(k),): v for k, v in constants.items()},
                     aligned)  # fmt: skip


def _type(name: str, dtype: str) -> str:
    if name in FLOATS:
        return f"*{dtype}"
    return POINTERS.get(name) or SCALARS.get(name, "i32")


def tool(name: str, cubin: bytes, *options: str) -> str:
    """Return what one of NVIDIA's tools, which triton brings along, prints of a program."""
    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [path, *options, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def usage(cubin: bytes) -> tuple[int, int]:
    """Return registers a thread and bytes of local memory, where spilled registers go."""
    report = tool("cuobjdump", cubin, "-res-usage")
    registers, stack, local = (int(re.findall(rf"\b{key}:(\d+)", report)[-1])
                               for key in ("REG", "STACK", "LOCAL"))  # fmt: skip
    return registers, stack + local


def machine_code(cubin: bytes) -> list[tuple[int, str]]:
    """Return the instructions of a program and their addresses."""
    code = tool("cuobjdump", cubin, "-sass")
    lines = re.findall(r"/\*([0-9a-f]{4,})\*/ +([^;]*);", code)
    return [(int(at, 16), text.strip()) for at, text in lines]


def machine_loops(program: list[tuple[int, str]]) -> list[list[str]]:
    """Return the instructions of every loop: from where a branch goes back to, to the branch."""
    loops = []
    for at, text in program:
        target = re.search(r"\bBRA\S* .*?(0x[0-9a-f]+)", text)
        # a branch to itself ends every program
        if target and int(target[1], 16) < at:
            begin = int(target[1], 16)
            loops.append([text for place, text in program if begin <= place <= at])
    return loops


def ptx_loops(ptx: str) -> list[list[str]]:
    """Return the instructions of every loop, before they are translated for the machine."""
    lines = [line.strip() for line in ptx.splitlines()]
    labels = {line[:-1].split(":")[0]: i for i, line in enumerate(lines)
              if re.match(r"\$\w+:", line)}  # fmt: skip
    loops = []
    for i, line in enumerate(lines):
        branch = re.search(r"\bbra(?:\.uni)?\s+(\$\w+);", line)
        if branch and labels[branch[1]] < i:
            loops.append(lines[labels[branch[1]] : i + 1])
    return loops


def products_in(loops: list[list[str]], ptx: list[list[str]]) -> list[str]:
    """Return the instructions of loops that multiply."""
    found = [t for loop in loops for t in loop if PRODUCT.search(t) and not NO_PRODUCT.search(t)]
    return found + [t for loop in ptx for t in loop if PTX_PRODUCT.search(t)]


def failure_of(
    name: str, program: list[tuple[int, str]], additions: int, products: list[str]
) -> str:
    """Return what is wrong with a kernel: products in a loop, of floats anywhere, or no sums."""
    if name in ADDITIONS_ONLY:
        floats = [t for _, t in program if FLOAT_PRODUCT.search(t) and not NO_PRODUCT.search(t)]
        return "; ".join(products + floats) if additions else "no loop that adds"
    return "no product found" if name in MULTIPLYING and not products else ""


def compiled(name: str, dtype: str, arch: int) -> dict[str, Any]:
    """Return what one kernel uses on one architecture."""
    kernel, tiles, flags = KERNELS[name]
    t = tiles[TYPES[dtype]]
    try:
        result = triton.compile(
            source(kernel, dtype, t, flags), target=GPUTarget("cuda", arch, 32),
            options=t.options(),
        )  # fmt: skip
        registers, spills = usage(result.asm["cubin"])
        program = machine_code(result.asm["cubin"])
        loops, ptx = machine_loops(program), ptx_loops(result.asm["ptx"])
    except Exception as error:
        # any failure is a row of the table, and the status of the run
        return {"registers": "-", "spill_bytes": "-", "shared_bytes": "-", "tensor_cores": "-",
                "loop_adds": "-", "loop_products": "-", "failure": repr(error)}  # fmt: skip
    products = products_in(loops, ptx)
    adds = sum("FADD" in text for loop in loops for text in loop)
    tensor = {m[1] for loop in loops for t in loop if (m := re.search(r"\b(HMMA|HGMMA)\b", t))}
    return {
        "registers": registers,
        "spill_bytes": spills,
        "shared_bytes": result.metadata.shared,
        "tensor_cores": "+".join(sorted(tensor)) or "-",
        "loop_adds": adds,
        "loop_products": len(products),
        "failure": failure_of(name, program, adds, products),
    }


def rows(only: str | None) -> Iterator[dict[str, Any]]:
    """Yield one row for each kernel, type and architecture."""
    for name, (_, tiles, _) in KERNELS.items():
        if only in {None, name}:
            for dtype, size in TYPES.items():
                for arch in ARCHITECTURES if size in tiles else ():
                    row = {"kernel": name, "dtype": dtype, "arch": f"sm_{arch}"}
                    yield row | compiled(name, dtype, arch)


def main() -> int:
    """Print the table and return whether something is wrong with it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--csv", type=Path, help="write the table here as well")
    parser.add_argument("--only", choices=KERNELS, help="compile this kernel alone")
    arguments = parser.parse_args()
    table = list(rows(arguments.only))
    print(f"triton {triton.__version__}")
    print("  ".join(f"{name:>16}" for name in table[0]))
    for row in table:
        print("  ".join(f"{value!s:>16}" for value in row.values()))
    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(table[0]))
            writer.writeheader()
            writer.writerows(table)
    bad = [row for row in table if row["failure"] or row["spill_bytes"]]
    print(f"{len(table)} compilations, {len(bad)} failed, spilling or multiplying")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
