"""How the Triton kernels are cut into programs."""

from typing import NamedTuple


class Tiles(NamedTuple):
    """The tile of one program, `[rows, columns]`, over steps of `depth`; and its pipeline."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int

    def options(self) -> dict[str, int | bool]:
        """Return how a kernel is compiled, whatever the defaults of the installed triton."""
        return {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": True}


# few rows: the weights are read once per tile of outputs, so that many small tiles run at once
FUSED_ROWS = 16
FUSED_RANK = 64
FUSED_BLOCK_RANK = 32
# by bytes of an element; the first of each is the default
FUSED: dict[int, tuple[Tiles, ...]] = {
    4: (Tiles(16, 32, 16, 4, 2), Tiles(16, 64, 32, 4, 2), Tiles(16, 16, 64, 4, 2)),
    2: (Tiles(16, 64, 64, 4, 3), Tiles(16, 32, 64, 4, 3), Tiles(16, 32, 128, 4, 2)),
}
PRODUCT: dict[int, tuple[Tiles, ...]] = {
    4: (Tiles(32, 64, 32, 8, 2), Tiles(16, 32, 64, 4, 2), Tiles(64, 64, 16, 8, 2)),
    2: (Tiles(64, 64, 32, 4, 3), Tiles(16, 64, 64, 4, 3), Tiles(128, 64, 32, 8, 3)),
}
STAIRCASE: dict[int, tuple[Tiles, ...]] = {
    4: (Tiles(32, 64, 32, 8, 2), Tiles(16, 64, 32, 4, 2)),
    2: (Tiles(64, 64, 32, 8, 3), Tiles(32, 64, 64, 4, 3)),
}
