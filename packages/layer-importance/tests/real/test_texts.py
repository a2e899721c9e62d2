import csv
import json
import zlib
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from layer_importance._modalities.text import Text
from layer_importance._tasks.classification import Classification
from layer_importance._tasks.generation import Generation
from layer_importance._tasks.qa import QuestionAnswering
from layer_importance._tasks.retrieval import Retrieval
from layer_importance._tasks.summarization import Summarization
from layer_importance._tasks.translation import Translation


def words_of(text, size=997):
    return [1 + zlib.crc32(word.encode()) % (size - 1) for word in text.lower().split()]


def padded(rows, longest, filler=0):
    """Ids ``[N, longest]`` and which are real."""
    ids = torch.full((len(rows), longest), filler)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for place, row in enumerate(rows):
        kept = torch.tensor(row[:longest])
        ids[place, : len(kept)], mask[place, : len(kept)] = kept, 1
    return ids, mask


def banking(data_dir, count=256):
    with (data_dir / "banking77" / "train.csv").open() as file:
        rows = [(row["text"], row["category"]) for row in csv.DictReader(file)]
    rows = rows[:: len(rows) // count][:count]
    kinds = sorted({kind for _, kind in rows})
    return [text for text, _ in rows], [kinds.index(kind) for _, kind in rows]


def shakespeare(data_dir, count=128, length=33):
    raw = (data_dir / "tinyshakespeare" / "input.txt").read_bytes()[: count * length]
    return torch.tensor(list(raw)).reshape(count, length)


def questions(data_dir, count=160):
    found = []
    text = (data_dir / "xquad-en" / "xquad.en.json").read_text()
    for article in json.loads(text)["data"]:
        for paragraph in article["paragraphs"]:
            for one in paragraph["qas"]:
                answer = one["answers"][0]
                begin = answer["answer_start"]
                context = " ".join(paragraph["context"][max(begin - 60, 0) : begin + 60].split())
                found.append((one["question"], context, answer["text"]))
    return [one for one in found if one[2] in one[1]][:count]


def abstracts(data_dir, count=96):
    with (data_dir / "scitldr-a" / "SciTLDR-A" / "dev.jsonl").open() as file:
        rows = [json.loads(next(file)) for _ in range(count)]
    return [(" ".join(row["source"]), row["target"][0]) for row in rows]


def sentences(data_dir, count=128):
    with (data_dir / "tatoeba-cmn-eng" / "cmn.txt").open() as file:
        rows = [next(file).split("\t")[:2] for _ in range(8 * count)]
    return [(row[0], row[1]) for row in rows[::8]]


def cranfield(data_dir, documents=200):
    """Documents, and queries with one of the documents that answer them."""
    folder = data_dir / "cranfield"

    def bodies(name):
        parts = (folder / name).read_text(errors="replace").split(".I ")[1:]
        return [part.split(".W", 1)[1].strip() for part in parts]

    queries, found, seen = bodies("cran.qry"), [], set()
    for line in (folder / "cranqrel").read_text().splitlines():
        # queries are numbered by place here, not by the name they carry
        query, document, relevance = (int(word) for word in line.split()[:3])
        if document <= documents and relevance in (1, 2) and query not in seen:
            seen.add(query)
            found.append((queries[query - 1], document - 1))
    return bodies("cran.all.1400")[:documents], found


class Attending(nn.Module):
    """Attention among tokens, then to those of a memory if there is one, then a small MLP."""

    def __init__(self, width, *, causal=False, crossed=False):
        super().__init__()
        self.causal, self.norm = causal, nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        layers = {"norm": nn.LayerNorm(width), "inner": nn.Linear(width, 2 * width)}
        layers |= {"relu": nn.ReLU(), "out": nn.Linear(2 * width, width)}
        self.mlp = nn.Sequential(OrderedDict(layers))
        if crossed:
            self.ask, self.told = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x, mask=None, memory=None, memory_mask=None):
        query, key, value = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + self.out(self._attend(query, key, value, mask, self.causal))
        if memory is not None:
            x = x + self.told(self._attend(self.ask(x), memory, memory, memory_mask, False))
        return x + self.mlp(x)

    @staticmethod
    def _attend(query, key, value, mask, causal):
        allowed = None if mask is None else mask.bool()[:, None, :].expand(-1, query.shape[1], -1)
        if causal:
            below = torch.ones(query.shape[1], key.shape[1], dtype=torch.bool).tril()
            allowed = below if allowed is None else allowed & below
        return F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)


class Reader(nn.Module):
    """Tokens to vectors, by three blocks."""

    def __init__(self, vocabulary, width=32, *, causal=False):
        super().__init__()
        self.table, self.places = nn.Embedding(vocabulary, width), nn.Embedding(256, width)
        self.blocks = nn.ModuleList([Attending(width, causal=causal) for _ in range(3)])

    def forward(self, input_ids, attention_mask=None):
        x = self.table(input_ids) + self.places.weight[: input_ids.shape[1]]
        for block in self.blocks:
            x = block(x, attention_mask)
        return x


class Writer(nn.Module):
    """An encoder and a decoder of three blocks each."""

    def __init__(self, vocabulary, width=32):
        super().__init__()
        self.encoder, self.table = Reader(vocabulary, width), nn.Embedding(vocabulary, width)
        self.decoder = nn.Module()
        self.decoder.blocks = nn.ModuleList(
            [Attending(width, causal=True, crossed=True) for _ in range(3)]
        )
        self.head = nn.Linear(width, vocabulary)

    def forward(self, input_ids, decoder_input_ids, attention_mask=None):
        memory = self.encoder(input_ids, attention_mask)
        x = self.table(decoder_input_ids) + self.encoder.places.weight[: decoder_input_ids.shape[1]]
        for block in self.decoder.blocks:
            x = block(x, None, memory, attention_mask)
        return self.head(x)


def batched(rows, size):
    count = len(next(iter(rows.values())))
    return [{k: v[i : i + size] for k, v in rows.items()} for i in range(0, count, size)]


@pytest.fixture
def mean_reader():
    class MeanReader(nn.Module):
        """A class, or a vector, from the mean of the real tokens."""

        def __init__(self, vocabulary, answers):
            super().__init__()
            self.reader, self.head = Reader(vocabulary), nn.Linear(32, answers)

        def forward(self, input_ids, attention_mask):
            x, real = self.reader(input_ids, attention_mask), attention_mask[..., None]
            return self.head(torch.where(real.bool(), x, 0).sum(1) / real.sum(1))

    return MeanReader


def test_sentences_the_useless_block_is_found_and_padding_counts_nowhere(
    data_dir, mean_reader, train, verdict, scores, same
):
    sentences, kinds = banking(data_dir, 144)
    ids, mask = padded([words_of(one) for one in sentences], 12)
    rows = {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor(kinds)}
    net = mean_reader(997, 77)
    train(net, batched(rows, 48), Classification(), useless=["reader.blocks.1"], steps=60)
    found = verdict(net, batched(rows, 48), Classification(), "reader.blocks.1")
    longer, wider = padded([words_of(one) for one in sentences], 17)
    wider[:, 12:] = 0
    noise = torch.randint(1, 997, longer.shape)
    other = {**rows, "input_ids": torch.where(wider.bool(), longer, noise), "attention_mask": wider}
    same(found, scores(net, batched(other, 48), Classification()))
    # the same tokens, but said to be real: this does change what is found
    told = {**other, "attention_mask": torch.ones_like(wider)}
    moved = scores(net, batched(told, 48), Classification())["block_influence"]
    one = found["block_influence"]["reader.blocks.0"].value
    assert abs(moved["reader.blocks.0"].value - one) > 1e-3 * one


def test_generation_the_useless_block_is_found_and_loses_no_bit(data_dir, train, verdict):
    class Speaker(nn.Module):
        def __init__(self):
            super().__init__()
            self.reader, self.head = Reader(128, causal=True), nn.Linear(32, 128)

        def forward(self, input_ids):
            return self.head(self.reader(input_ids))

    lines = shakespeare(data_dir, 64, 33)
    net, task, batches = Speaker(), Generation(), [{"input_ids": one} for one in lines.split(32)]
    train(net, batches, task, useless=["reader.blocks.1"], steps=50, lr=1e-2)
    verdict(net, batches, task, "reader.blocks.1")
    # (tokens, next tokens) say the same as tokens that are their own answers
    pairs = (lines[:, :-1], lines[:, 1:])
    same = task.loss(net(pairs[0]), pairs[1], pairs)
    torch.testing.assert_close(same, task.loss(net(lines), lines, {"input_ids": lines}))
    # an order of letters was learnt: better than any fixed frequency of letters can be
    share = torch.bincount(lines[:, 1:].flatten(), minlength=128) / lines[:, 1:].numel()
    entropy = -(share * share.clamp_min(1e-9).log()).sum()
    assert same.mean() < entropy


def test_questions_the_useless_block_is_found(data_dir, train, verdict):
    class Pointer(nn.Module):
        def __init__(self):
            super().__init__()
            self.reader, self.head = Reader(997), nn.Linear(32, 2)

        def forward(self, input_ids, attention_mask):
            found = self.head(self.reader(input_ids, attention_mask))
            return found.masked_fill(attention_mask[..., None] == 0, -30.0)

    asked, starts, ends = [], [], []
    for question, context, answer in questions(data_dir, 64):
        before = words_of(question)[:10] + words_of(context[: context.index(answer)])
        starts.append(len(before))
        ends.append(len(before) + len(words_of(answer)) - 1)
        asked.append(words_of(question)[:10] + words_of(context))
    ids, mask = padded(asked, 40)
    rows = {"input_ids": ids, "attention_mask": mask}
    rows |= {"start_positions": torch.tensor(starts), "end_positions": torch.tensor(ends)}
    net, task, batches = Pointer(), QuestionAnswering(), batched(rows, 32)
    train(net, batches, task, useless=["reader.blocks.1"], steps=60)
    verdict(net, batches, task, "reader.blocks.1")
    right = task.labels(rows)
    certain = [nn.functional.one_hot(right[k].clamp_max(39), 40) * 50.0 for k in right]
    known = torch.tensor(ends) < 40
    assert (task.quality(certain, right, rows)[known] == 1).all()
    assert (task.loss(certain, right, rows) < 1e-12).all()


@pytest.mark.parametrize("task", [Translation(), Summarization()])
def test_encoder_and_decoder_each_have_their_useless_block(
    task, data_dir, train, verdict, scores, same
):
    if task.name == "translation":
        pairs = [(list(b.encode()), list(a.encode())) for a, b in sentences(data_dir, 64)]
    else:
        pairs = [(words_of(a, 251), words_of(b, 251)) for a, b in abstracts(data_dir, 64)]
    size = 16
    source, mask = padded([a for a, _ in pairs], size)
    target, real = padded([[1, *b] for _, b in pairs], size + 1)
    rows = {
        "input_ids": source,
        "attention_mask": mask,
        "decoder_input_ids": target[:, :-1],
        "labels": torch.where(real[:, 1:].bool(), target[:, 1:], -100),
    }
    net = Writer(256)
    useless = ["encoder.blocks.1", "decoder.blocks.1"]
    train(net, batched(rows, 32), task, useless=useless, steps=40, lr=5e-3)
    found = verdict(net, batched(rows, 32), task, *useless, modality="text")
    # source and target are equally long: each side must have its own padding all the same
    noise = torch.randint(2, 250, source.shape)
    spoilt = {
        **rows,
        "input_ids": torch.where(mask.bool(), source, noise),
        "decoder_input_ids": torch.where(rows["labels"] != -100, rows["decoder_input_ids"], noise),
    }
    assert not torch.equal(mask.bool(), rows["labels"] != -100)
    same(found, scores(net, batched(spoilt, 32), task, modality="text"))


def test_queries_the_useless_block_is_found_and_batches_do_not_matter(
    data_dir, residual, train, verdict, scores, same
):
    documents, queries = cranfield(data_dir, 400)
    assert len(queries) > 60

    def bag(text):
        found = torch.zeros(400)
        found[[place % 400 for place in words_of(text)]] = 1
        return found

    corpus = torch.stack([bag(one) for one in documents])

    class Finder(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Linear(400, 32)
            self.blocks = nn.ModuleList([residual(32) for _ in range(3)])
            self.register_buffer("corpus", corpus)

        def vectors(self, x):
            x = self.stem(x)
            for block in self.blocks:
                x = block(x)
            return x

        def forward(self, query):
            with torch.no_grad():
                known = self.stem(self.corpus)
            return {"query_embeds": self.vectors(query), "document_embeds": known}

    asked = torch.stack([bag(text) for text, _ in queries])
    right = torch.tensor([place for _, place in queries])
    net, task = Finder(), Retrieval(temperature=0.1)
    rows = {"query": asked, "labels": right}
    train(net, batched(rows, 32), task, steps=80)
    found = verdict(net, batched(rows, 32), task, modality="tabular")
    same(found, scores(net, batched(rows, 13), task, modality="tabular"))
    assert task.quality(net(asked), right, rows).mean() > 0.3


def test_other_tokens_cost_more_and_other_padding_costs_nothing(data_dir, mean_reader, train):
    sentences, kinds = banking(data_dir, 96)
    ids, mask = padded([words_of(one) for one in sentences], 12)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor(kinds)}
    net, task = mean_reader(997, 77), Classification()
    train(net, [batch], task, useless=[], steps=40)
    spoilt = Text().corrupt(batch, torch.Generator().manual_seed(0))
    embedded = Text(embedding=net.reader.table).corrupt(batch, torch.Generator().manual_seed(0))
    assert "input_ids" not in embedded
    losses = [task.loss(net(one["input_ids"], mask), one["labels"], one) for one in (batch, spoilt)]
    assert losses[1].mean() > 2 * losses[0].mean()


def test_hugging_face_models_are_read_as_they_are():
    transformers = pytest.importorskip("transformers")
    small = {"num_layers": 2, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_heads": 2}
    t5 = transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=40, decoder_start_token_id=0, **small)
    ).eval()
    ids, labels = torch.randint(2, 40, (3, 6)), torch.randint(2, 40, (3, 5))
    labels[1, 3:] = -100
    batch, task = {"input_ids": ids, "labels": labels}, Translation()
    output = task.inputs(batch).of(t5)
    losses = task.loss(output, labels, batch)
    counts = (labels != -100).sum(1)
    torch.testing.assert_close((losses * counts).sum() / counts.sum(), output.loss)
    bert = transformers.BertForQuestionAnswering(
        transformers.BertConfig(
            vocab_size=40,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
        )
    ).eval()
    where = {"start_positions": torch.tensor([1, 2, 0]), "end_positions": torch.tensor([3, 2, 5])}
    asked, qa = {"input_ids": ids, **where}, QuestionAnswering()
    found = qa.loss(qa.inputs(asked).of(bert), qa.labels(asked), asked)
    torch.testing.assert_close(found.mean() / 2, bert(ids, **where).loss)
    gpt = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=40, n_positions=16, n_embd=16, n_layer=2, n_head=2)
    ).eval()
    text, speak = {"input_ids": ids}, Generation()
    said = speak.loss(speak.inputs(text).of(gpt), speak.labels(text), text)
    torch.testing.assert_close(said.mean(), gpt(ids, labels=ids).loss)
