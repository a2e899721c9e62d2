"""Blocks taken out of a tiny model of every causal type that transformers can build.

    python packages/layer-importance/benchmarks/bench_execution.py [--csv FILE] [TYPE ...]

One row a type: which executor held, how it is saved, the four checks, and what failed before.
"""

import argparse
import csv
import logging
import os
import signal
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch

os.environ["HF_HUB_OFFLINE"] = "1"
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from layer_importance import discover
from layer_importance._execute.carry_out import carry_out

LAYERS, WIDTH, HEADS, VOCABULARY = 4, 32, 4, 64
TINY: dict[str, Any] = {
    **dict.fromkeys(["vocab_size", "n_vocab", "src_vocab_size"], VOCABULARY),
    **dict.fromkeys(
        ["hidden_size", "d_model", "n_embd", "dim", "model_dim", "embedding_size"], WIDTH
    ),
    **dict.fromkeys(
        ["intermediate_size", "ffn_dim", "d_ff", "decoder_ffn_dim", "n_inner"], 2 * WIDTH
    ),
    **dict.fromkeys(["encoder_ffn_dim", "ffn_hidden_size", "moe_intermediate_size"], 2 * WIDTH),
    **dict.fromkeys(["shared_expert_intermediate_size", "ffn_embed_dim", "mlp_hidden_size"], WIDTH),
    **dict.fromkeys(["num_hidden_layers", "n_layer", "num_layers", "n_layers"], LAYERS),
    **dict.fromkeys(["decoder_layers", "num_decoder_layers", "encoder_layers"], LAYERS),
    **dict.fromkeys(["num_attention_heads", "n_head", "num_heads", "n_heads"], HEADS),
    **dict.fromkeys(["decoder_attention_heads", "encoder_attention_heads"], HEADS),
    **dict.fromkeys(["num_key_value_heads", "multi_query_group_num", "num_kv_heads"], HEADS),
    **dict.fromkeys(
        ["head_dim", "kv_channels", "attention_head_dim", "v_head_dim"], WIDTH // HEADS
    ),
    **dict.fromkeys(["qk_nope_head_dim", "qk_rope_head_dim"], WIDTH // HEADS),
    **dict.fromkeys(["q_lora_rank", "kv_lora_rank"], WIDTH),
    **dict.fromkeys(["num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"], 4),
    **dict.fromkeys(["num_experts_per_tok", "moe_k", "n_group", "topk_group"], 1),
    **dict.fromkeys(["max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"], 64),
    **dict.fromkeys(["pad_token_id", "bos_token_id"], 0),
    "eos_token_id": 1,
    "expansion_ratio": 2,
    "state_size": 8,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_num_heads": 8,
    "mamba_head_dim": 8,
    "attention_hidden_size": WIDTH,
    "lru_width": WIDTH,
    "attn_layer_indices": [1, 3],
    "attention_window_size": 16,
    "sliding_window": 16,
    "use_mamba_kernels": False,
    "is_decoder": True,
}
LIMIT = 3_000_000


class TooLongError(Exception):
    pass


EXTRA: dict[str, dict[str, Any]] = {
    "codegen": {"rotary_dim": 8},
    "cpmant": {
        "prompt_types": 2,
        "prompt_length": 2,
        "dim_head": 8,
        "position_bias_num_buckets": 8,
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "gptj": {"rotary_dim": 8},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 0, "mamba_d_state": 4},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "prophetnet": {"num_encoder_layers": LAYERS},
    "reformer": {"axial_pos_embds": False, "attn_layers": ["local"] * LAYERS},
    "roc_bert": {"enable_pronunciation": False, "enable_shape": False},
}


def words(kind: Any, layers: int, sizes: dict[str, Any]) -> dict[str, Any]:
    """What a configuration of this kind is told, nested ones too."""
    known = set(kind().to_dict())
    depth = {"num_hidden_layers", "n_layer", "num_layers", "n_layers", "decoder_layers"}
    told = {
        key: layers if key in depth else value
        for key, value in sizes.items()
        if key in known or key in kind.attribute_map
    }
    told |= EXTRA.get(kind.model_type, {})
    for name, inner in getattr(kind, "sub_configs", {}).items():
        if hasattr(inner, "model_type") and inner.model_type:
            told[name] = words(inner, layers, sizes)
    return told


def tiny(name: str) -> torch.nn.Module:
    """A model of the type, as small as its configuration lets it be."""
    kind = CONFIG_MAPPING[name]
    error: Exception = RuntimeError()
    for layers in (LAYERS, 2 * LAYERS):
        for left_out in ((), ("head_dim", "v_head_dim", "kv_channels"), ("sliding_window",)):
            sizes = {key: value for key, value in TINY.items() if key not in left_out}
            try:
                return built(name, kind(**words(kind, layers, sizes)))
            except TooLongError:
                raise
            except Exception as problem:
                error = problem
    raise error


def built(name: str, config: Any) -> torch.nn.Module:
    """A model that runs, with random weights."""
    kind = getattr(transformers, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[name])
    with torch.device("meta"):
        size = sum(p.numel() for p in kind._from_config(config).parameters())
    if size > LIMIT:
        raise ValueError(f"has {size} parameters at its smallest")
    torch.manual_seed(0)
    model = kind._from_config(config).eval()
    model(input_ids=torch.arange(2, 14).reshape(2, 6))
    return model


def row(name: str) -> dict[str, Any]:
    """What became of one type."""
    try:
        model = tiny(name)
    except Exception as error:
        return {
            "type": name,
            "executor": "not built",
            "why": f"{type(error).__name__}: {error}"[:160],
        }
    with torch.no_grad():  # fresh models hardly use their blocks: differences must be seen
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
    example = {"input_ids": torch.arange(2, 14).reshape(2, 6)}
    try:
        units = discover(model, example)
        chain = max(units.chains.values(), key=len)
        removed = [unit for unit in chain if unit.removable][1:3]
        if not removed:
            return {"type": name, "executor": "no unit", "why": "; ".join(u.reason for u in chain)}
        done = carry_out(model, removed, example=example, units=units)
    except Exception as error:
        return {"type": name, "executor": "failed", "why": f"{type(error).__name__}: {error}"[:400]}
    return {
        "type": name,
        "executor": done.executor,
        "saved": done.kind,
        "removed": " ".join(done.removed),
        **done.checks,
        "why": "; ".join(f"{k}: {v}" for k, v in done.attempts.items())[:400],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="*")
    parser.add_argument("--csv")
    wanted = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    transformers.logging.disable_progress_bar()

    def stop(*_: object) -> None:
        raise TooLongError

    signal.signal(signal.SIGALRM, stop)
    rows = []
    for name in wanted.types or MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        signal.alarm(40)
        try:
            rows.append(row(name))
        except TooLongError:
            rows.append({"type": name, "executor": "not built", "why": "takes more than 40 s"})
        finally:
            signal.alarm(0)
        if wanted.types or rows[-1]["executor"] not in ("compact", "not built"):
            print(rows[-1], flush=True)
    counts = Counter(one["executor"] for one in rows)
    done = sum(counts[name] for name in ("compact", "bypass", "mask"))
    built = sum(counts.values()) - counts["not built"]
    print(f"torch {torch.__version__}, transformers {transformers.__version__}", dict(counts))
    print(f"{built} of {len(rows)} types built; carried out {done / max(built, 1):.1%}, ", end="")
    print(f"compact {counts['compact'] / max(built, 1):.1%}")
    if wanted.csv:
        fields = ["type", "executor", "saved", "removed", "forward", "cache", "generate", "reload"]
        with Path(wanted.csv).open("w", newline="") as file:
            writer = csv.DictWriter(file, [*fields, "why"])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
