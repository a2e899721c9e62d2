import json
from pathlib import Path

import pytest
import torch

from adlrns import load

transformers = pytest.importorskip("transformers")


@pytest.fixture
def bert(place) -> Path:
    """A folder with a tiny model and a tokenizer, as transformers writes them."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(60))]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(place / "bert")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    transformers.BertModel(config).save_pretrained(place / "bert")
    lines = [" ".join(f"w{(i * j) % 60}" for j in range(1, 3 + i % 9)) for i in range(80)]
    (place / "lines.txt").write_text("\n".join(lines))
    (place / "lines.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in lines))
    return place / "bert"


@pytest.mark.parametrize("data", ["lines.txt", "lines.jsonl"])
def test_a_local_model_is_compressed_on_sentences(adlrns, place, bert, data: str) -> None:
    out = adlrns("compress", f"hf:{bert}", "--data", data, "--batch-size", 8, "--out", "out").stdout
    assert "materialised, auto" in out
    saved = load(place / "out")
    _, example = saved.example(2)
    assert set(example) >= {"input_ids", "attention_mask"}
    with torch.no_grad():
        assert saved.materialized(**example).last_hidden_state.shape[0] == 2
    tokenizer = transformers.AutoTokenizer.from_pretrained("out/hf", local_files_only=True)
    tokens = tokenizer(["w1 w2", "w3"], padding=True, return_tensors="pt")
    with torch.no_grad():
        assert saved.materialized(**tokens).last_hidden_state.shape[:2] == (2, 2)


def test_the_folder_opens_after_its_source_is_gone(adlrns, place, bert) -> None:
    import shutil

    adlrns("compress", f"hf:{bert}", "--data", "lines.txt", "--out", "out")
    shutil.rmtree(bert)
    adlrns("compress", "out", "--data", "lines.txt", "--budget", 0.3, "--out", "out2")
    adlrns("compress", "out2", "--data", "lines.txt", "--budget", 0.6, "--out", "out2")
    adlrns("export", "out2", "--to", "torch-export")


def test_lines_that_are_no_sentences_are_named(adlrns, place, bert) -> None:
    (place / "bad.jsonl").write_text('"fine"\n3\n')
    message = adlrns.error("compress", f"hf:{bert}", "--data", "bad.jsonl")
    assert "line 2 must be a string or have a field text" in message
    (place / "bad.jsonl").write_text("{")
    assert "line 1 is no JSON" in adlrns.error("compress", f"hf:{bert}", "--data", "bad.jsonl")


def test_weights_that_would_be_unpickled_are_refused(adlrns, place, bert) -> None:
    (bert / "model.safetensors").unlink()
    (bert / "pytorch_model.bin").write_bytes(b"x")
    message = adlrns.error("compress", f"hf:{bert}", "--data", "lines.txt")
    assert "must have its weights in safetensors files" in message


def test_without_transformers_names_the_extra(adlrns, place, bert, monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    message = adlrns.error("compress", f"hf:{bert}", "--data", "lines.txt", code=1)
    assert "adlrns[hf]" in message
