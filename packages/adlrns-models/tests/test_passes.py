"""Which calls of dynamic layers the last pass of a model is made of."""

import copy
import io
import threading

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from adlrns_models import DynamicLinear, LearnedGate, mean_flops, rank_penalty
from adlrns_models._passes import last_pass


def layer(gate="learned"):
    return DynamicLinear(16, 16, r_max=8, r_min=2, gate=gate)


def forced(rank, n=64):
    made = DynamicLinear(n, n, r_max=32, r_min=1).eval()
    made.force_rank(rank)
    return made


def share(rank, n=64):
    return rank * (n + n) / (n * n)


class Skips(nn.Module):
    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x, both=True):
        x = self.first(x)
        return self.second(x) if both else x


@torch.no_grad()
def test_a_layer_that_was_left_out_does_not_count():
    model, x = Skips(forced(4), forced(32)), torch.randn(10, 64)
    model(torch.randn(1000, 64))
    model(x, both=False)
    assert mean_flops(model) == pytest.approx(share(4))
    assert float(rank_penalty(model, beta=0.0)) == pytest.approx(share(4))
    assert float(rank_penalty(model, alpha=0.0, beta=1.0)) == pytest.approx(share(4))
    model(x)
    assert mean_flops(model) == pytest.approx((share(4) + share(32)) / 2)


@pytest.mark.parametrize("gate", ["learned", "block"])
def test_training_goes_on_where_layers_are_left_out(gate):
    model, x = Skips(layer(gate), layer(gate)), torch.randn(4, 16)
    for both in (True, False, True, False):
        model.zero_grad()
        (model(x, both).square().mean() + rank_penalty(model)).backward()
        assert bool(model.first.gate.scorer.last.bias.grad.any())
        assert (model.second.gate.scorer.last.bias.grad is not None) == both


@torch.no_grad()
def test_a_pass_that_left_all_layers_out_took_nothing():
    class Never(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = forced(4)

        def forward(self, x, use):
            return self.part(x) if use else x

    model, x = Never(), torch.randn(2, 64)
    with pytest.raises(RuntimeError, match="call the model first"):
        mean_flops(model)
    model(x, True)
    model(x, False)
    assert mean_flops(model) == 1.0
    assert float(rank_penalty(model)) == 0.0


class Repeats(nn.Module):
    def __init__(self, part, ranks):
        super().__init__()
        self.part, self.ranks = part, ranks

    def forward(self, x):
        for rank, rows in self.ranks:
            self.part.force_rank(rank)
            self.part(x[:rows])
        return x


@torch.no_grad()
def test_every_call_of_a_shared_layer_counts():
    model = Repeats(forced(1), [(32, 100), (1, 1), (8, 50)])
    for _ in range(2):
        model(torch.randn(100, 64))
        mean = (32 * 100 + 1 * 1 + 8 * 50) / 151
        assert mean_flops(model) == pytest.approx(share(mean))
        assert float(rank_penalty(model, beta=0.0)) == pytest.approx(share(mean))
        # its weights are held once
        assert float(rank_penalty(model, alpha=0.0, beta=1.0)) == pytest.approx(share(mean))
    assert model.part.last_rank == 8
    assert mean_flops(model.part) == pytest.approx(share(8))


def test_the_penalty_of_a_shared_layer_has_the_gradient_of_all_its_calls():
    torch.manual_seed(0)
    part = DynamicLinear(16, 16, r_max=8, r_min=2, gate="learned", dtype=torch.float64)
    part.gate.scorer.last.weight.data.normal_(0, 20.0)
    x = torch.randn(3, 4, 16, dtype=torch.float64) * torch.tensor([1.0, 0.1, 0.01])[:, None, None]
    bias, wanted = part.gate.scorer.last.bias, 0.0
    for each in x:
        part(each)
        wanted = wanted + torch.autograd.grad(rank_penalty(part), bias)[0] / 3

    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = part

        def forward(self, x):
            return [self.part(each) for each in x]

    model = Shared()
    for _ in range(2):
        model(x)
        found = torch.autograd.grad(rank_penalty(model), bias)[0]
        torch.testing.assert_close(found, wanted)


@torch.no_grad()
def test_layers_put_into_a_finished_model_count_from_its_first_pass():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.dense = nn.Linear(64, 64)

        def forward(self, x):
            return self.dense(x)

    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([Block(), Block()])
            self.turns = [0, 0, 1]

        def forward(self, x):
            for turn in self.turns:
                x = self.blocks[turn](x)
            return x

    model, x = nn.Sequential(Deep()), torch.randn(5, 64)
    model(x)
    model[0].blocks[0].dense = forced(4)
    model[0].blocks._modules["1"].dense = forced(16)
    for turns, mean in (([0, 0, 1], 8), ([1, 0], 10), ([1], 16), ([0] * 5, 4)):
        model[0].turns = turns
        model(x)
        for part in (model, model[0], model[0].blocks if len(set(turns)) < 2 else model):
            wanted = share(mean) if part is not model[0].blocks else mean_flops(part)
            assert mean_flops(part) == pytest.approx(wanted)


@torch.no_grad()
def test_the_last_call_of_the_model_named_counts_not_that_of_a_module_around_it():
    model, x = Skips(forced(4), forced(32)), torch.randn(10, 64)

    class Objective(nn.Module):
        def __init__(self):
            super().__init__()
            self.model, self.seen = model, []

        def forward(self, x):
            self.model(x)
            self.seen.append(mean_flops(self.model))
            self.model(x, both=False)
            self.seen.append(mean_flops(self.model))

    outer = Objective()
    outer(x)
    outer(x)
    both = (share(4) + share(32)) / 2
    assert outer.seen == pytest.approx([both, share(4)] * 2)
    assert mean_flops(outer) == pytest.approx((2 * share(4) + share(32)) / 3)


@torch.no_grad()
def test_parts_that_are_called_by_themselves_count_by_their_last_calls():
    model, x = nn.ModuleList([Skips(forced(4), forced(32)), forced(8)]), torch.randn(10, 64)
    model[0](x)
    model[1](x)
    model[1](x)
    assert mean_flops(model) == pytest.approx((share(4) + share(32) + share(8)) / 3)
    model[0](x, both=False)
    assert mean_flops(model) == pytest.approx((share(4) + share(8)) / 2)
    # by a method, and not by its call
    model[0].second(model[0].first(x[:5]))
    assert mean_flops(model[0]) == pytest.approx((share(4) + share(32)) / 2)
    model[0](x, both=False)
    assert mean_flops(model[0]) == pytest.approx(share(4))


@torch.no_grad()
def test_a_model_that_calls_itself_is_one_pass():
    class Tree(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = forced(4)

        def forward(self, x, depth=3):
            self.part.force_rank(4 * depth)
            y = self.part(x)
            return self(y, depth - 1) if depth > 1 else y

    model = Tree()
    for _ in range(2):
        model(torch.randn(2, 64))
        assert mean_flops(model) == pytest.approx(share(8))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@torch.no_grad()
def test_a_pass_that_failed_ends(error):
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.part, self.rest, self.fail = forced(4), forced(32), False

        def forward(self, x):
            self.part(x)
            if self.fail:
                raise error
            return self.rest(x)

    inner, other, x = Fails(), nn.Sequential(forced(16)), torch.randn(2, 64)
    model = nn.Sequential(inner)
    both = (share(4) + share(32)) / 2
    for _ in range(2):
        for fail in (False, True, True, False):
            inner.fail = fail
            if fail:
                with pytest.raises(error):
                    model(x)
            else:
                model(x)
            assert mean_flops(model) == pytest.approx(share(4) if fail else both)
            other(x)
            assert mean_flops(other) == pytest.approx(share(16))
            assert mean_flops(model) == pytest.approx(share(4) if fail else both)


def test_what_checkpointing_computes_again_does_not_count():
    class Saving(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = layer(), layer()

        def forward(self, x):
            return checkpoint(self.second, self.first(x), use_reentrant=False)

    model, x = Saving(), torch.randn(4, 16)
    for _ in range(3):
        y = model(x)
        before, ranks = mean_flops(model), (model.first.last_rank, model.second.last_rank)
        (y.square().mean() + rank_penalty(model)).backward()
        assert mean_flops(model) == before
        assert (model.first.last_rank, model.second.last_rank) == ranks


def test_threads_do_not_see_each_others_passes():
    models = [nn.Sequential(forced(rank), forced(rank)) for rank in (2, 8)]
    barrier, found = threading.Barrier(2), {}

    def serve(model):
        with torch.no_grad():
            for _ in range(20):
                barrier.wait()
                model(torch.randn(3, 64))
                found.setdefault(model, []).append(mean_flops(model))

    threads = [threading.Thread(target=serve, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[model] for model in models] == [[share(2)] * 20, [share(8)] * 20]


@torch.no_grad()
def test_copies_have_passes_of_their_own():
    model, x = Skips(forced(4), forced(32)), torch.randn(4, 64)
    model(x)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(model), torch.load(buffer, weights_only=False)):
        with pytest.raises(RuntimeError, match="call the model first"):
            mean_flops(twin)
        twin(x, both=False)
        assert mean_flops(twin) == pytest.approx(share(4))
        assert mean_flops(model) == pytest.approx((share(4) + share(32)) / 2)
    model.double()
    with pytest.raises(RuntimeError, match="call the model first"):
        mean_flops(model)


@torch.no_grad()
def test_what_runs_between_the_graphs_of_a_model_is_told_apart_too():
    class Between(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = forced(4)

        @torch.compiler.disable
        def forward(self, x):
            return self.part(x)

    class Parts(nn.Module):
        def __init__(self):
            super().__init__()
            self.before, self.between, self.again = nn.Linear(64, 64), Between(), 1

        def forward(self, x):
            x = self.before(x)
            for _ in range(self.again):
                x = self.between(x) + 1
            return x

    torch._dynamo.reset()
    model = Parts()
    model.between.part.force_rank(8)
    model(torch.randn(2, 64))  # there are hooks already when it is compiled
    compiled = torch.compile(model, backend="eager")
    for rank in (4, 16, 32):
        model.between.part.force_rank(rank)
        compiled(torch.randn(2, 64))
        for each in (compiled, model, model.between):
            assert mean_flops(each) == pytest.approx(share(rank))
    assert len(last_pass(model.between).calls) == 1


@pytest.mark.filterwarnings("ignore:`torch._prims_common.check`:FutureWarning")
def test_models_are_compiled_as_before():
    torch._dynamo.reset()
    gate = LearnedGate([2, 4, 8])
    model = nn.Sequential(layer(), nn.Tanh(), DynamicLinear(16, 16, 8, 2, gate=gate)).eval()
    x = torch.randn(4, 16)
    y = model(x)
    spent = rank_penalty(model).item()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        torch.testing.assert_close(compiled(x), y)
        for each in (model, compiled):
            assert rank_penalty(each).item() == pytest.approx(spent)
        model(2 * x)
