"""Which part of a network's parameters can grow, and how exactly.

    python packages/neuro-morph/benchmarks/bench_coverage.py [--csv FILE] [--only NAME ...]
        [--transformers]

Every group of every network is grown once in each of its ways, in float64. A parameter is covered
if one of its axes is in a group that grew. ``capture_s`` is the median time of a capture; the
networks are too small to set it against their training steps. With ``--transformers`` networks of
that library are there too, built small from their configurations.
"""

import argparse
import csv
import os
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from neuro_morph import (
    Duplicate,
    GrowthGraph,
    GrowthRefusedError,
    Morpher,
    Split,
    Widen,
    ZeroFanOut,
)
from neuro_morph.testing import architectures, randomized

TURNS = 5
FIELDS = ["net", "parameters", "groups", "growable", "edits", "refused", "coverage", "worst"]
FIELDS += ["capture_s"]
INITS: dict[str, Any] = {
    "free": ZeroFanOut(),
    "copy": Split(),
    "equal": Duplicate(),
    "masked": ZeroFanOut("masked"),
}


def of_transformers() -> dict[str, Any]:
    """Makers of networks of the transformers library, and of their inputs."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import transformers as hf

    text: Any = {"vocab_size": 60, "hidden_size": 24, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 4, "intermediate_size": 40, "max_position_embeddings": 20}
    gpt = {"vocab_size": 60, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 20}
    t5: Any = {"vocab_size": 60, "d_model": 24, "num_layers": 2, "num_heads": 4, "d_kv": 6}
    tokens: Any = {"bos_token_id": 0, "eos_token_id": 0}
    ids = torch.tensor([[3, 7, 1, 9], [2, 2, 40, 5]])
    plain = {"input_ids": ids, "use_cache": False}
    return {
        "transformers: BERT": lambda: (
            hf.BertForSequenceClassification(hf.BertConfig(**text)),
            {"input_ids": ids},
        ),
        "transformers: GPT-2": lambda: (hf.GPT2LMHeadModel(hf.GPT2Config(**gpt, **tokens)), plain),
        "transformers: Llama": lambda: (
            hf.LlamaForCausalLM(hf.LlamaConfig(**text, **tokens, num_key_value_heads=2)),
            plain,
        ),
        "transformers: T5": lambda: (
            hf.T5ForConditionalGeneration(hf.T5Config(**t5, d_ff=40, **tokens)),
            {**plain, "decoder_input_ids": ids},
        ),
    }


def row(name: str, model: nn.Module, inputs: Any) -> dict[str, Any]:
    """What was measured of one network."""
    # some norms compute in float32 whatever they are given
    logits = ("logits",) if name.startswith("transformers") else None
    morpher = Morpher(
        model, example_inputs=inputs, capture="dispatch", tolerance=1e-6, outputs=logits
    )
    graph, start = morpher.graph, morpher.snapshot()
    sizes = {n: p.numel() for n, p in model.named_parameters()}
    covered: set[str] = set()
    worst, edits, refused = 0.0, 0, 0
    for group in graph:
        for way in graph.ways(group):
            by = group.size if way == "equal" else 2
            try:
                event = morpher.apply(Widen(group.id, by=by, init=INITS[way]))
                covered |= group.parameters()
                worst, edits = max(worst, event.relative_change or 0.0), edits + 1
            except GrowthRefusedError as error:
                print(f"  {name}: {error}"[:200], file=sys.stderr)
                refused += 1
            start.restore()
            morpher._graph = graph
    return {
        "net": name,
        "parameters": sum(sizes.values()),
        "groups": len(graph.groups()),
        "growable": sum(g.growable for g in graph),
        "edits": edits,
        "refused": refused,
        "coverage": round(sum(sizes[n] for n in covered & set(sizes)) / sum(sizes.values()), 4),
        "worst": f"{worst:.1e}",
        "capture_s": round(seconds_of(model, inputs), 4),
    }


def seconds_of(model: nn.Module, inputs: Any) -> float:
    """Seconds of a capture."""
    captures = []
    for _ in range(TURNS):
        start = time.perf_counter()
        GrowthGraph.capture(model, inputs, capture="dispatch")
        captures.append(time.perf_counter() - start)
    return statistics.median(captures)


def main() -> None:
    """Prints a row for each network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--transformers", action="store_true")
    wanted = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    more = of_transformers() if wanted.transformers else {}
    for name, factory in {**architectures(), **more}.items():
        if wanted.only and name not in wanted.only:
            continue
        torch.manual_seed(0)
        rows.append(row(name, *randomized(*factory())))
        print(rows[-1], flush=True)
    print(f"torch {torch.__version__}, Python {sys.version.split()[0]}, float64, CPU")
    if wanted.csv:
        with wanted.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
