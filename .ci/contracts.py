"""Write the import contracts of the packages that are there, as import-linter reads them.

The rules hold for every package under packages/; only the two upper floors and the packages
with kernels are named.
"""

import sys
from collections.abc import Iterator
from json import dumps
from pathlib import Path

PACKAGES = Path(__file__).resolve().parent.parent / "packages"
UPPER_FLOORS = ["adlrns", "adlrns_models"]  # from the top; all others stand on the ground
WITH_KERNELS = {"lowrank_kernels", "spike_ops"}  # may import triton


def table(header: str, **values: object) -> str:
    """Return one TOML table; JSON's strings, lists and booleans are TOML's as well."""
    return "\n".join([header, *(f"{key} = {dumps(value)}" for key, value in values.items()), ""])


def contracts(sources: dict[str, Path]) -> Iterator[str]:
    """Yield the header and one table per contract."""
    yield table("[tool.importlinter]", root_packages=list(sources), include_external_packages=True)
    ground = " | ".join(name for name in sources if name not in UPPER_FLOORS)
    yield table(
        "[[tool.importlinter.contracts]]",
        name="a package imports only from the floors below it",
        type="layers",
        layers=[*(name for name in UPPER_FLOORS if name in sources), ground],
    )
    yield table(
        "[[tool.importlinter.contracts]]",
        name="triton is imported only where the kernels are",
        type="forbidden",
        source_modules=[name for name in sources if name not in WITH_KERNELS],
        forbidden_modules=["triton"],
        allow_indirect_imports=True,
    )
    for name, source in sources.items():
        private = [f"{name}.{file.stem}" for file in sorted(source.glob("_[!_]*"))]
        if private:
            yield table(
                "[[tool.importlinter.contracts]]",
                name=f"only {name} imports its private modules",
                type="protected",
                protected_modules=private,
                allowed_importers=[name],
            )


if __name__ == "__main__":
    inits = sorted(PACKAGES.glob("*/src/*/__init__.py"))
    text = "\n".join(contracts({file.parent.name: file.parent for file in inits}))
    Path(sys.argv[1]).write_text(text)
