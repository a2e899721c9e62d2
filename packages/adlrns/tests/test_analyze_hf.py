"""`adlrns analyze hf:PATH`: the class that the task needs."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

from layer_importance import Report

transformers = pytest.importorskip("transformers")
SMALL: dict[str, Any] = {"vocab_size": 64, "pad_token_id": 0}
DATA = """
import torch


def _ids():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(3, 60, (6, 7), generator=generator)


def texts():
    return [{"input_ids": _ids(), "attention_mask": torch.ones(6, 7).long()}]


def labelled():
    return [{**texts()[0], "labels": torch.arange(6) % 3}]


def pairs():
    return [{**texts()[0], "labels": _ids().flip(1)[:, :4].clone()}]
"""


@pytest.fixture
def folder(place: Path) -> Path:
    """A working folder with data, and tiny models as transformers writes them."""
    (place / "texts.py").write_text(DATA)
    torch.manual_seed(0)
    gpt2 = transformers.GPT2Config(n_embd=16, n_layer=3, n_head=2, n_positions=16, **SMALL)
    transformers.GPT2LMHeadModel(gpt2).save_pretrained(place / "gpt2")
    t5 = transformers.T5Config(
        d_model=16, d_ff=24, d_kv=8, num_layers=2, num_heads=2, decoder_start_token_id=0, **SMALL
    )
    transformers.T5ForConditionalGeneration(t5).save_pretrained(place / "t5")
    bert = transformers.BertConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        num_labels=3,
        **SMALL,
    )
    transformers.BertForSequenceClassification(bert).save_pretrained(place / "bert")
    transformers.BertModel(bert).save_pretrained(place / "headless")
    return place


@pytest.mark.parametrize(
    "model, task, data, kind",
    [
        ("gpt2", "generation", "texts:texts", "GPT2LMHeadModel"),
        ("t5", "translation", "texts:pairs", "T5ForConditionalGeneration"),
        ("bert", "classification", "texts:labelled", "BertForSequenceClassification"),
    ],
)
def test_a_model_is_opened_with_the_head_its_task_needs(
    adlrns, folder: Path, model: str, task: str, data: str, kind: str
) -> None:
    methods = "block_influence,skip_attribution,empirical_fisher"
    adlrns("analyze", f"hf:{folder / model}", "--data", data, "--task", task, "--methods", methods)
    report = Report.load("analysis/report.json")
    assert report.facts["model"] == kind
    assert list(report.methods) == methods.split(",")
    assert all(score.value > 0 for score in report["empirical_fisher"].values())


def test_a_folder_without_the_head_is_opened_without_it(adlrns, folder: Path) -> None:
    command = ("analyze", f"hf:{folder / 'headless'}", "--data", "texts:texts")
    result = adlrns(*command, "--methods", "block_influence")
    assert Report.load("analysis/report.json").facts["model"] == "BertModel"
    assert "has no weights for the head of AutoModelForSequenceClassification" in result.stderr


def test_the_curve_of_a_language_model_is_measured(adlrns, folder: Path) -> None:
    adlrns(
        *("analyze", f"hf:{folder / 'gpt2'}", "--data", "texts:texts", "--task", "generation"),
        *("--methods", "block_influence", "--curve", "2"),
    )
    rows = list(csv.DictReader(Path("analysis/curve.csv").read_text().splitlines()))
    assert [int(row["removed"]) for row in rows] == [0, 1, 2]
    # a language model that was never trained knows nothing, with or without a block
    assert float(rows[0]["loss"]) == pytest.approx(4.16, abs=0.1)
    assert int(rows[0]["parameters"]) > int(rows[1]["parameters"]) > int(rows[2]["parameters"])
