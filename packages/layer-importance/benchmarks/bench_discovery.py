"""Units found by structure in every model type that transformers can build from its defaults.

    python packages/layer-importance/benchmarks/bench_discovery.py [--csv FILE] [TYPE ...]

Models are on the meta device. A type counts as matched if a chain's length, or that of all chains
together, is a number of layers in its configuration.
"""

import argparse
import csv
import logging
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

os.environ["HF_HUB_OFFLINE"] = "1"
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from layer_importance import discover
from layer_importance._hints import hints


class TooLongError(Exception):
    pass


def row(name: str) -> dict[str, Any]:
    """What was found in one type."""
    try:
        with torch.device("meta"):
            model = transformers.AutoModel.from_config(CONFIG_MAPPING[name]())
    except Exception as error:
        return {"type": name, "built": 0, "why": f"{type(error).__name__}: {error}"[:120]}
    counts = hints(model).counts
    chains = discover(model, None).chains
    if any(unit.kind == "leaf" for units in chains.values() for unit in units):
        chains = {}
    lengths = [len(units) for units in chains.values()]
    held = sum(unit.parameters for units in chains.values() for unit in units)
    matched = bool({*lengths, sum(lengths)} & counts) if counts else ""
    return {
        "type": name,
        "built": 1,
        "chains": len(chains),
        "matched": matched,
        "share": round(held / max(sum(p.numel() for p in model.parameters()), 1), 3),
        "lengths": " ".join(map(str, lengths[:8])),
        "counts": " ".join(map(str, sorted(counts)[:8])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="*")
    parser.add_argument("--csv")
    wanted = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)

    def stop(*_: object) -> None:
        raise TooLongError

    signal.signal(signal.SIGALRM, stop)
    rows = []
    for name in wanted.types or CONFIG_MAPPING:
        signal.alarm(40)
        try:
            rows.append(row(name))
        except TooLongError:
            rows.append({"type": name, "built": 0, "why": "takes more than 40 s"})
        finally:
            signal.alarm(0)
        if wanted.types or (rows[-1]["built"] and not (rows[-1]["chains"] and rows[-1]["matched"])):
            print(rows[-1], flush=True)
    built = [one for one in rows if one["built"]]
    found = sum(one["chains"] > 0 for one in built)
    counted = [one["matched"] for one in built if one["matched"] != ""]
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    print(f"{len(built)} of {len(rows)} types built, {found / max(len(built), 1):.1%} have a chain")
    print(f"{sum(counted) / max(len(counted), 1):.1%} of {len(counted)} match their configuration")
    if wanted.csv:
        fields = ["type", "built", "chains", "matched", "share", "lengths", "counts", "why"]
        with Path(wanted.csv).open("w", newline="") as file:
            writer = csv.DictWriter(file, fields)
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
