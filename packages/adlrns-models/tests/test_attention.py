import itertools
import warnings

import pytest
import torch
from torch import nn

from adlrns_models import (
    AdaptiveLayer,
    ElasticModel,
    OpenAttention,
    load_materialized,
    make_elastic,
    materialize_model,
    save_materialized,
    wrap_model_with_adaptive,
)

double = torch.float64
# kinds of attention: keywords of nn.MultiheadAttention
KINDS = [
    {},
    {"batch_first": True},
    {"bias": False},
    {"add_bias_kv": True, "batch_first": True},
    {"add_zero_attn": True},
    {"kdim": 10, "vdim": 12},
    {"kdim": 10, "batch_first": True, "add_bias_kv": True, "add_zero_attn": True, "bias": False},
]
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


def attention(**options):
    torch.manual_seed(0)
    made = nn.MultiheadAttention(16, 4, dtype=double, **options)
    for parameter in made.parameters():  # biases begin as zeros
        nn.init.normal_(parameter, std=0.3)
    return made


def inputs(options, batch=(3,)):
    """Queries of 5 and keys of 7 places."""
    widths = (16, options.get("kdim", 16), options.get("vdim", 16))
    made = [torch.randn(*batch, n, w, dtype=double) for n, w in zip((5, 7, 7), widths, strict=True)]
    if batch and not options.get("batch_first"):
        made = [x.transpose(0, 1) for x in made]
    return made


def masks(batch):
    """Masks of attention and of padding that leave every query a key to see."""
    rows = 4 * batch
    each = torch.rand(rows, 5, 7) > 0.7
    each[..., 2] = False
    padding = torch.rand(batch, 7) > 0.7
    padding[:, 2] = False
    return [None, each[0], torch.randn(5, 7, dtype=double), each], [None, padding]


def both(closed, opened, *args, **kwargs):
    with warnings.catch_warnings():  # of masks of two types, which the closed one still takes
        warnings.filterwarnings("ignore", "Support for mismatched")
        wanted = closed(*args, **kwargs)
    return opened(*args, **kwargs), wanted


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", KINDS)
def test_open_attention_is_the_attention_for_all_arguments(options, training):
    closed = attention(**options).train(training)
    opened = OpenAttention(closed)
    x = inputs(options)
    for mask, padding in itertools.product(*masks(3)):
        for weights, average in ((False, True), (True, True), (True, False)):
            found, wanted = both(
                closed,
                opened,
                *x,
                attn_mask=mask,
                key_padding_mask=padding,
                need_weights=weights,
                average_attn_weights=average,
            )
            torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("options", KINDS)
def test_open_attention_takes_inputs_without_a_batch(options):
    closed = attention(**options)
    opened, x = OpenAttention(closed), inputs(options, ())
    for mask, padding in itertools.product(*masks(1)):
        padding = None if padding is None else padding[0]
        found, wanted = both(closed, opened, *x, attn_mask=mask, key_padding_mask=padding)
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("options", [{}, {"batch_first": True}])
def test_the_causal_hint_means_the_same(options, weights, padded):
    closed = attention(**options)
    x = inputs(options)[0]
    mask = nn.Transformer.generate_square_subsequent_mask(5, dtype=double)
    padding = torch.tensor([[False, False, False, True, True]] * 3) if padded else None
    found, wanted = both(
        closed,
        OpenAttention(closed),
        *(x, x, x),
        attn_mask=mask,
        key_padding_mask=padding,
        is_causal=True,
        need_weights=weights,
    )
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_gradients_and_dropout_are_those_of_the_attention():
    closed = attention(dropout=0.5)
    opened, x = OpenAttention(closed), inputs({})
    for weights in (True, False):
        torch.manual_seed(1)
        wanted = closed(*x, need_weights=weights)[0]
        torch.manual_seed(1)
        found = opened(*x, need_weights=weights)[0]
        torch.testing.assert_close(found, wanted)
    gradient = torch.autograd.grad(wanted.square().sum(), closed.in_proj_weight)[0]
    mine = [opened.q_proj.weight, opened.k_proj.weight, opened.v_proj.weight]
    parts = torch.autograd.grad(found.square().sum(), mine)
    torch.testing.assert_close(torch.cat(parts), gradient)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"key": torch.ones(7, 16)}, ValueError, "key must have 3 axes"),
        ({"attn_mask": torch.ones(5, 6) > 0}, ValueError, r"attn_mask must have shape \[5, 7\]"),
        ({"attn_mask": torch.ones(3, 5, 7) > 0}, ValueError, r"shape \[12, 5, 7\]"),
        ({"key_padding_mask": torch.ones(2, 7) > 0}, ValueError, r"key_padding_mask .*\[3, 7\]"),
        ({"attn_mask": torch.ones(5, 7, dtype=torch.int64)}, TypeError, "bool or floating"),
        ({"is_causal": True}, ValueError, "attn_mask must be given with is_causal"),
    ],
)
def test_arguments_that_cannot_be_are_named(change, error, message):
    query, key, value = (x.float() for x in inputs({"batch_first": True}))
    opened = OpenAttention(attention(batch_first=True).float())
    with pytest.raises(error, match=message):
        opened(**({"query": query, "key": key, "value": value} | change))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_nested_tensors_are_refused():
    opened = OpenAttention(attention(batch_first=True))
    x = torch.nested.nested_tensor(
        [torch.ones(2, 16, dtype=double), torch.ones(3, 16, dtype=double)]
    )
    with pytest.raises(ValueError, match="query must not be nested"):
        opened(x, x, x)


def test_only_an_attention_is_opened():
    with pytest.raises(TypeError, match="attention must be a MultiheadAttention, got Linear"):
        OpenAttention(nn.Linear(2, 2))


class Reader(nn.Module):
    """Attention over a memory of another width, then a head."""

    def __init__(self):
        super().__init__()
        self.attend = nn.MultiheadAttention(16, 4, kdim=12, vdim=12, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x, memory):
        return self.head(self.attend(x, memory, memory)[0])


def reading():
    torch.manual_seed(0)
    batches = [{"x": torch.randn(8, 5, 16), "memory": torch.randn(8, 7, 12)} for _ in range(4)]
    return Reader(), batches


def test_an_elastic_attention_is_the_model_at_full_rank_and_saves_work_below(tmp_path):
    model, batches = reading()
    elastic = make_elastic(model, batches)
    assert isinstance(model.attend, nn.MultiheadAttention)  # untouched
    assert set(elastic.profiles) == {*(f"attend.{name}" for name in PROJECTIONS), "head"}
    assert elastic.info["skipped"] == {}
    with torch.no_grad():
        torch.testing.assert_close(elastic(**batches[0]), model(**batches[0]), rtol=1e-4, atol=1e-5)
    point = elastic.set_budget(flops=0.5)
    assert point.cost <= 0.5 * elastic.full_cost()
    elastic.save(tmp_path)
    again = ElasticModel.load(tmp_path, model)
    settled = materialize_model(elastic)
    save_materialized(settled, tmp_path, like=model)
    loaded = load_materialized(tmp_path, model)
    with torch.no_grad():
        y = elastic(**batches[0])
        assert torch.equal(again(**batches[0]), y)
        assert torch.equal(loaded(**batches[0]), settled(**batches[0]))
        torch.testing.assert_close(settled(**batches[0]), y, rtol=1e-4, atol=1e-5)


def test_a_file_that_opens_what_the_model_has_not_is_refused(tmp_path):
    model, batches = reading()
    make_elastic(model, batches[:1]).save(tmp_path)
    other = nn.Sequential(nn.Linear(16, 5))
    with pytest.raises(ValueError, match="field open: model has no attention 'attend' to open"):
        ElasticModel.load(tmp_path, other)


def test_an_attention_alone_is_a_model():
    closed = attention().float()
    x = torch.randn(5, 3, 16)
    wanted = closed(x, x, x)[0].detach()
    elastic = make_elastic(closed, [x], forward=lambda m, b: m(b, b, b))
    wrapped = wrap_model_with_adaptive(closed)
    for model in (elastic, wrapped):
        with torch.no_grad():
            torch.testing.assert_close(model(x, x, x)[0], wanted, rtol=1e-4, atol=1e-5)
    assert isinstance(wrapped, OpenAttention)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
def test_encoder_layers_call_what_is_adaptive_on_every_path(norm_first, training, grad):
    options = {"dropout": 0.0, "batch_first": True, "norm_first": norm_first}
    model = nn.TransformerEncoderLayer(16, 4, 32, **options).train(training)
    x = torch.randn(2, 5, 16)
    mask, padding = torch.zeros(5, 5), torch.tensor([[0.0] * 5, [0.0, 0.0, 0.0, -1e9, -1e9]])
    with torch.set_grad_enabled(grad):
        wanted = model(x, mask, padding).detach()
        wrapped = wrap_model_with_adaptive(model, r_min=1)
        torch.testing.assert_close(wrapped(x, mask, padding), wanted, rtol=1e-4, atol=1e-5)
        for name in ("linear1", "linear2", *(f"self_attn.{p}" for p in PROJECTIONS)):
            layer = wrapped.get_submodule(name)
            assert isinstance(layer, AdaptiveLayer)
            layer.set_rank(1)
            assert not torch.allclose(wrapped(x, mask, padding), wanted, atol=1e-4), name
            layer.set_rank(layer.max_rank)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_an_encoder_that_packs_padded_rows_keeps_its_outputs():
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    x, padding = (
        torch.randn(2, 5, 16),
        torch.tensor([[False] * 5, [False, False, False, True, True]]),
    )
    with torch.no_grad():
        wanted = model(x, src_key_padding_mask=padding)[~padding]
        batch = {"src": x, "src_key_padding_mask": padding}
        elastic = make_elastic(model, [batch])
        assert model.use_nested_tensor  # untouched
        assert "layers.1.self_attn.q_proj" in elastic.profiles
        for adaptive in (elastic, wrap_model_with_adaptive(model)):
            found = adaptive(**batch)[~padding]
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_if_wrapping_fails_the_attention_is_closed_again():
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    model = nn.TransformerEncoder(layer, 2)
    closed = [each.self_attn for each in model.layers]
    with torch.no_grad():
        model.layers[1].linear2.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="weight must be finite"):
        wrap_model_with_adaptive(model)
    assert [each.self_attn for each in model.layers] == closed
    assert model.use_nested_tensor


class Scaled(nn.MultiheadAttention):
    def forward(self, *args, **kwargs):
        y, weights = super().forward(*args, **kwargs)
        return 2 * y, weights


def test_attention_that_cannot_be_opened_stays_and_is_named(caplog):
    from torch.nn.utils import prune

    caplog.set_level("INFO", logger="adlrns_models")
    model = nn.ModuleDict(
        {
            "own": Scaled(16, 4),
            "pruned": prune.l1_unstructured(nn.MultiheadAttention(16, 4), "in_proj_weight", 0.5),
            "one": nn.MultiheadAttention(16, 4),
            "other": nn.MultiheadAttention(16, 4),
            "head": nn.Linear(16, 4),
        }
    )
    model["other"].in_proj_weight = model["one"].in_proj_weight
    x = torch.randn(5, 3, 16)
    wanted = [model[name](x, x, x)[0] for name in ("own", "pruned", "one", "other")]
    wrapped = wrap_model_with_adaptive(model)
    found = [wrapped[name](x, x, x)[0] for name in ("own", "pruned", "one", "other")]
    torch.testing.assert_close(found, wanted)
    for reason in (
        "own stays as it is: Scaled is a subclass",
        "pruned stays as it is: its in_proj_weight is computed",
        "one stays as it is: its in_proj_weight is tied to another module's: other.in_proj_weight",
        "own.out_proj stays as it is: Scaled reads its weight",
    ):
        assert reason in caplog.text


def test_a_shared_attention_is_opened_once_and_stays_shared():
    shared = nn.MultiheadAttention(16, 4)
    model = nn.ModuleList([shared, nn.Linear(16, 16), shared])
    hooked = []
    shared.register_forward_hook(lambda *_: hooked.append(1))
    wrapped = wrap_model_with_adaptive(model)
    assert wrapped[0] is wrapped[2]
    assert isinstance(wrapped[0], OpenAttention)
    x = torch.randn(5, 3, 16)
    wrapped[2](x, x, x)
    assert hooked


def test_an_open_attention_compiles_into_one_graph_for_all_ranks():
    torch._dynamo.reset()
    model, batches = reading()
    elastic = make_elastic(model, batches)
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(elastic.network, backend=count, fullgraph=True, dynamic=False)
    with torch.no_grad():
        for share in torch.linspace(0.2, 0.9, 10).tolist():
            elastic.set_budget(flops=share)
            found = compiled(**batches[0])
            torch.testing.assert_close(found, elastic(**batches[0]), rtol=1e-4, atol=1e-5)
    assert len(graphs) == 1


@pytest.mark.parametrize("form", ["dense", "factored", "identity"])
def test_a_settled_attention_exports(form):
    model, batches = reading()
    elastic = make_elastic(model, batches)
    elastic.set_budget(flops=0.5)
    settled = materialize_model(elastic, form).eval()
    exported = torch.export.export(settled, (), dict(batches[0])).module()
    torch.testing.assert_close(exported(**batches[0]), settled(**batches[0]))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
@pytest.mark.parametrize("options", KINDS[:5])
def test_an_open_attention_scripts(options):
    opened, x = OpenAttention(attention(**options)), inputs(options)
    scripted = torch.jit.script(opened)
    for mask, padding in itertools.product(*masks(3)):
        for weights in (True, False):
            asked = {"attn_mask": mask, "key_padding_mask": padding, "need_weights": weights}
            torch.testing.assert_close(scripted(*x, **asked), opened(*x, **asked))
