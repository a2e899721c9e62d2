"""What a recording lists, and what the penalty and the FLOPs make of it."""

import asyncio
import copy
import gc
import io
import threading
import weakref

import pytest
import torch
import torch._dynamo.testing
from torch import nn
from torch.func import functional_call, grad
from torch.utils.checkpoint import checkpoint

from adlrns_models import (
    ADLRNSTrainer,
    DynamicLinear,
    DynamicLowRankLayer,
    LearnedGate,
    mean_flops,
    rank_penalty,
    record,
)
from adlrns_models._recording import board
from adlrns_models._trainer_config import TrainConfig
from adlrns_models._trainer_objective import Objective


def layer(gate="learned"):
    return DynamicLinear(16, 16, r_max=8, r_min=2, gate=gate)


def forced(rank, n=64):
    made = DynamicLinear(n, n, r_max=32, r_min=1).eval()
    made.force_rank(rank)
    return made


def share(rank, n=64):
    return rank * (n + n) / (n * n)


def spent(model, *inputs):
    """Returns the FLOPs of one call."""
    with record(model) as ran:
        model(*inputs)
    return mean_flops(ran)


class Skips(nn.Module):
    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x, both=True):
        x = self.first(x)
        return self.second(x) if both else x


@torch.no_grad()
def test_calls_are_listed_in_the_order_they_ran_until_the_block_ends():
    model, x = Skips(forced(4), forced(32)), torch.randn(10, 64)
    model(x)
    with record(model) as ran:
        assert len(ran) == 0
        model.second(x[:3])
        assert [decision.rank for _, decision in ran] == [32]
        model(x)
    model(x)
    assert [one for one, _ in ran] == [model.second, model.first, model.second]
    assert [(d.rank, d.rows) for _, d in ran] == [(32, 3), (4, 10), (32, 10)]
    assert ran[-1][0] is model.second
    assert [d.rank for _, d in ran[:2]] == [32, 4]


@torch.no_grad()
def test_a_layer_that_was_left_out_does_not_count():
    model, x = Skips(forced(4), forced(32)), torch.randn(10, 64)
    model(torch.randn(1000, 64))
    with record(model) as ran:
        model(x, both=False)
    assert mean_flops(ran) == pytest.approx(share(4))
    assert float(rank_penalty(ran, beta=0.0)) == pytest.approx(share(4))
    assert float(rank_penalty(ran, alpha=0.0, beta=1.0)) == pytest.approx(share(4))
    assert spent(model, x) == pytest.approx((share(4) + share(32)) / 2)


@pytest.mark.parametrize("gate", ["learned", "block"])
def test_training_goes_on_where_layers_are_left_out(gate):
    model, x = Skips(layer(gate), layer(gate)), torch.randn(4, 16)
    for both in (True, False, True, False):
        model.zero_grad()
        with record(model) as ran:
            (model(x, both).square().mean() + rank_penalty(ran)).backward()
        assert bool(model.first.gate.scorer.last.bias.grad.any())
        assert (model.second.gate.scorer.last.bias.grad is not None) == both


class Never(nn.Module):
    def __init__(self):
        super().__init__()
        self.part = forced(4)

    def forward(self, x, use=False):
        return self.part(x) if use else x


def test_a_block_in_which_no_layer_ran_is_empty_and_not_a_penalty_of_nothing():
    model, x = Never(), torch.randn(2, 64)
    model(x, True)
    with record(model) as ran:
        model(x)
    assert not ran
    for ask in (rank_penalty, mean_flops):
        with pytest.raises(RuntimeError, match="call the model inside the block"):
            ask(ran)
    objective = Objective(model, TrainConfig(energy_penalty_weight=1.0), lambda y, _: y.sum())
    outcome = objective((x, x), 0)
    assert (float(outcome.penalty), outcome.flops) == (0.0, 1.0)


@pytest.mark.parametrize("ask", [rank_penalty, mean_flops])
@pytest.mark.parametrize("other", [layer(), nn.Sequential(layer()), [], None])
def test_only_a_recording_is_counted(ask, other):
    with pytest.raises(TypeError, match=r"ran must be what record gives .*got "):
        ask(other)


@pytest.mark.parametrize("other", [None, [layer()], layer])
def test_only_a_module_is_recorded(other):
    with pytest.raises(TypeError, match="model must be a Module, got"), record(other):
        pass


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
    mean = (32 * 100 + 1 * 1 + 8 * 50) / 151
    for passes in (1, 2):  # several passes in a block add up
        with record(model) as ran:
            for _ in range(passes):
                model(torch.randn(100, 64))
        assert len(ran) == 3 * passes
        assert mean_flops(ran) == pytest.approx(share(mean))
        assert float(rank_penalty(ran, beta=0.0)) == pytest.approx(share(mean))
        # its weights are held once
        assert float(rank_penalty(ran, alpha=0.0, beta=1.0)) == pytest.approx(share(mean))
    assert model.part.last_rank == 8


def test_the_penalty_of_a_shared_layer_has_the_gradient_of_all_its_calls():
    torch.manual_seed(0)
    part = DynamicLinear(16, 16, r_max=8, r_min=2, gate="learned", dtype=torch.float64)
    part.gate.scorer.last.weight.data.normal_(0, 20.0)
    x = torch.randn(3, 4, 16, dtype=torch.float64) * torch.tensor([1.0, 0.1, 0.01])[:, None, None]
    bias, wanted = part.gate.scorer.last.bias, 0.0
    for each in x:
        with record(part) as ran:
            part(each)
        wanted = wanted + torch.autograd.grad(rank_penalty(ran), bias)[0] / 3
    with record(part) as ran:
        for each in x:
            part(each)
    torch.testing.assert_close(torch.autograd.grad(rank_penalty(ran), bias)[0], wanted)


@torch.no_grad()
def test_layers_put_into_a_finished_model_count_also_in_the_block():
    model, x = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)), torch.randn(5, 64)
    with record(model) as ran:
        model(x)
        model[0] = forced(4)
        model(x)
    assert [one for one, _ in ran] == [model[0]]
    model[1] = forced(16)
    assert spent(model, x) == pytest.approx(share(10))


@torch.no_grad()
def test_blocks_inside_of_blocks_list_what_runs_in_each_and_is_of_their_model():
    model, x = Skips(forced(4), forced(32)), torch.randn(10, 64)
    with record(model) as outer:
        model(x)
        with record(model.second) as inner, record(model) as all_of_it:
            model(x)
            forced(2)(x)
        model(x, both=False)
    assert [one for one, _ in inner] == [model.second]
    assert [d.rank for _, d in all_of_it] == [4, 32]
    assert [d.rank for _, d in outer] == [4, 32, 4, 32, 4]
    assert mean_flops(outer) == pytest.approx((3 * share(4) + 2 * share(32)) / 5)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@torch.no_grad()
def test_a_block_that_failed_ends(error):
    model, other, x = Skips(forced(4), forced(32)), forced(16), torch.randn(2, 64)
    model.second.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises(error), record(model) as failed:
        model(x)
    model.first(x)
    assert [d.rank for _, d in failed] == [4]
    assert spent(other, x) == pytest.approx(share(16))


@pytest.mark.parametrize("reentrant", [True, False])
def test_what_checkpointing_computes_again_is_not_listed(reentrant):
    class Saving(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = layer("spectral"), layer("spectral")

        def forward(self, x):
            return checkpoint(self.second, self.first(x), use_reentrant=reentrant)

    model, x = Saving(), torch.randn(4, 16)
    for _ in range(3):
        with record(model) as ran:
            y = model(x)
            ranks = (model.first.last_rank, model.second.last_rank)
            (y.square().mean() + rank_penalty(ran)).backward()
        assert [one for one, _ in ran] == [model.first, model.second]
        assert (model.first.last_rank, model.second.last_rank) == ranks


@pytest.mark.parametrize("gate", ["learned", "block"])
def test_a_penalty_that_would_not_reach_a_gate_is_refused(gate):
    part, x = layer(gate), torch.randn(4, 16)
    with record(part) as ran:
        checkpoint(part, x, use_reentrant=False)
    rank_penalty(ran).backward()
    with record(part) as ran:
        checkpoint(part, x.requires_grad_(), use_reentrant=True)
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        rank_penalty(ran)
    with torch.no_grad():
        assert float(rank_penalty(ran)) > 0
    with torch.no_grad(), record(part) as ran:
        part(x)
    assert not rank_penalty(ran).requires_grad
    with record(part.eval()) as ran, torch.no_grad():
        part(x)
    assert not rank_penalty(ran).requires_grad


def test_the_graph_lives_as_long_as_the_recording():
    model, x = nn.Sequential(layer()), torch.randn(4, 16)
    with record(model) as ran:
        model(x)
    graph = weakref.ref(ran[0][1].expected)
    assert graph().requires_grad
    assert not model[0].decision.expected.requires_grad
    assert float(model[0].decision.expected) == float(graph().detach())
    del ran
    gc.collect()
    assert graph() is None


def test_threads_do_not_see_each_others_calls():
    shared = forced(4)
    models = [nn.Sequential(forced(rank), shared, forced(rank)) for rank in (2, 8)]
    barrier, found = threading.Barrier(3), {}

    def serve(model, watched):
        with torch.no_grad():
            for _ in range(20):
                barrier.wait()
                with record(watched) as ran:
                    barrier.wait()
                    model(torch.randn(3, 64))
                    barrier.wait()
                found.setdefault(model, []).append([d.rank for _, d in ran])

    def pass_by():
        with torch.no_grad():
            for _ in range(60):
                barrier.wait()
                models[0](torch.randn(3, 64))

    threads = [threading.Thread(target=serve, args=(m, nn.ModuleList(models))) for m in models]
    threads.append(threading.Thread(target=pass_by))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[model] for model in models] == [[[2, 4, 2]] * 20, [[8, 4, 8]] * 20]


@torch.no_grad()
def test_tasks_that_outlive_the_block_they_were_started_in_are_not_listed_any_more():
    model, x = forced(4), torch.randn(2, 64)

    async def child(ended):
        model(x)
        await ended.wait()
        model(x)

    async def parent():
        ended = asyncio.Event()
        with record(model) as ran:
            task = asyncio.create_task(child(ended))
            await asyncio.sleep(0)
        graph = weakref.ref(ran)
        with record(forced(2)) as other:
            ended.set()
            await task
        assert (len(ran), len(other)) == (1, 0)
        del ran
        gc.collect()
        assert graph() is None

    asyncio.run(parent())


@torch.no_grad()
def test_tasks_share_a_compiled_model_and_no_decisions():
    torch._dynamo.reset()
    model = nn.Sequential(layer("spectral")).eval()
    compiled = torch.compile(model, backend="eager")

    async def serve(rows):
        with record(model) as ran:
            for _ in range(3):
                await asyncio.sleep(0)
                compiled(torch.randn(rows, 16))
                await asyncio.sleep(0)
            await asyncio.sleep(rows * 1e-3)
        return [decision.rows for _, decision in ran]

    async def both():
        return await asyncio.gather(serve(2), serve(5))

    assert asyncio.run(both()) == [[2] * 3, [5] * 3]


@pytest.mark.parametrize("backend", [None, "eager"])
@torch.no_grad()
def test_what_runs_in_a_thread_of_the_task_is_not_listed(backend):
    torch._dynamo.reset()
    model, x = nn.Sequential(forced(4)), torch.randn(2, 64)
    run = model if backend is None else torch.compile(model, backend=backend)

    async def serve():
        with record(model) as ran:
            await asyncio.to_thread(run, x)
            run(x[:1])
        return [decision.rows for _, decision in ran]

    assert asyncio.run(serve()) == [1]


def test_a_copy_that_data_parallel_makes_is_named():
    part, other, x = forced(4), forced(4), torch.randn(2, 64)
    copied = part._replicate_for_data_parallel()
    copied.down, copied.up, copied.inner_bias, copied.outer_bias = part.parameters()
    copied(x)
    with record(other):
        copied(x)
    with record(nn.Sequential(part)), pytest.raises(RuntimeError, match="DistributedDataParallel"):
        copied(x)


@torch.no_grad()
def test_copies_of_a_layer_are_others_and_have_decided_nothing():
    model, x = Skips(forced(4), forced(32)), torch.randn(4, 64)
    model(x)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(model), torch.load(buffer, weights_only=False)):
        with pytest.raises(RuntimeError, match="call it first"):
            _ = twin.first.decision
        with record(twin) as ran:
            model(x)
            twin(x, both=False)
        assert mean_flops(ran) == pytest.approx(share(4))
    model.double()
    with pytest.raises(RuntimeError, match="call it first"):
        _ = model.first.decision


def test_calls_inside_a_transform_are_listed_by_a_recording_inside_it():
    model, x = nn.Sequential(layer()), torch.randn(4, 16)
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def objective(parameters, inside):
        torch.manual_seed(0)
        with record(model) as ran:
            y = functional_call(model, parameters, (x,))
        return y.square().mean() + (rank_penalty(ran) if inside else 0.0)

    with record(model) as outside:
        slope = grad(objective)(parameters, True)
        without = grad(objective)(parameters, False)
    assert not outside
    torch.manual_seed(0)
    with record(model) as ran:
        (model(x).square().mean() + rank_penalty(ran)).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(slope[name], parameter.grad)
    scorer = "0.gate.scorer.last.bias"
    assert not torch.allclose(slope[scorer], without[scorer])


def test_the_trainer_trains_gates_by_all_calls_of_a_pass(tmp_path):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.part, self.head = layer(), nn.Linear(16, 2)

        def forward(self, x):
            return self.head(self.part(self.part(x)))

    torch.manual_seed(0)
    model = Twice()
    config = TrainConfig(energy_penalty_weight=0.5)
    trainer = ADLRNSTrainer(model, config, "cpu", tmp_path)
    x, y = torch.randn(4, 16), torch.tensor([0, 1, 0, 1])
    torch.manual_seed(1)
    outcome = trainer.stepper.objective.train()((x, y), 0)
    torch.manual_seed(1)
    with record(model) as ran:
        loss = nn.functional.cross_entropy(model(x), y)
    assert len(ran) == 2
    torch.testing.assert_close(outcome.total, loss + 0.5 * rank_penalty(ran))
    assert outcome.flops == pytest.approx(mean_flops(ran))


# compiled models


class Shared(nn.Module):
    def __init__(self, gate="learned"):
        super().__init__()
        self.first, self.last = layer(gate), layer(gate)

    def forward(self, x):
        return self.last(torch.tanh(self.first(torch.tanh(self.first(x)))))


@pytest.mark.filterwarnings("ignore:`torch._prims_common.check`:FutureWarning")
def test_compiled_models_are_recorded_call_by_call():
    torch._dynamo.reset()
    model = Shared(LearnedGate([2, 4, 8])).eval()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    compiled(torch.randn(4, 16))
    inputs = [s * torch.randn(4, 16) for s in (1.0, 0.1, 10.0)]
    with record(model) as wanted:
        for x in inputs:
            model(x)
    for _ in range(2):
        with record(model) as ran, record(compiled) as same, record(model.last) as of:
            for x in inputs:
                compiled(x)
        assert [one for one, _ in ran] == [one for one, _ in same] == [one for one, _ in wanted]
        assert [int(d.rank) for _, d in ran] == [int(d.rank) for _, d in wanted]
        torch.testing.assert_close(rank_penalty(ran), rank_penalty(wanted))
        compiled(inputs[0])
        assert (len(ran), len(same), len(of)) == (9, 9, 3)
    assert counter.frame_count == 2  # one of them is recorded, one is not


@pytest.mark.parametrize("gate", ["learned", "block"])
def test_the_penalty_of_a_compiled_model_trains_its_gates(gate):
    torch._dynamo.reset()
    model, x = Shared(gate), torch.randn(4, 16)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for one in (model.first, model.last):
        bias = one.gate.scorer.last.bias.data
        bias.copy_(torch.linspace(-1, 1, len(bias)))
        one.gate.rate = one.gate.gain = 0.0  # of a block gate, whose offsets would move
    slopes = []
    for each in (model, compiled):
        model.zero_grad()
        with record(each) as ran:
            each(x)
        rank_penalty(ran).backward()
        slopes.append(model.last.gate.scorer.last.bias.grad.clone())
    assert bool(slopes[0].any())
    torch.testing.assert_close(slopes[0], slopes[1])


def test_threads_share_a_compiled_model_and_no_decisions():
    torch._dynamo.reset()
    model = nn.Sequential(DynamicLinear(16, 16, r_max=8, r_min=2, granularity="sample")).eval()
    compiled = torch.compile(model, backend="aot_eager")
    inputs = [torch.randn(3, 16) * torch.logspace(0, s, 16) for s in (-3, 0)]
    wanted = [flops_of(compiled, model, x) for x in inputs]
    assert wanted[0] != wanted[1]
    barrier, found = threading.Barrier(2), {0: [], 1: []}

    def serve(i):
        for _ in range(20):
            barrier.wait()
            found[i].append(flops_of(compiled, model, inputs[i]))

    threads = [threading.Thread(target=serve, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in (0, 1):
        assert found[i] == [wanted[i]] * 20


def flops_of(compiled, model, x):
    with torch.no_grad(), record(model) as ran:
        compiled(x)
    return mean_flops(ran)


@torch.no_grad()
def test_what_runs_between_the_graphs_of_a_model_is_listed_in_its_place():
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
            self.before, self.between, self.after = forced(2), Between(), forced(3)

        def forward(self, x):
            return self.after(self.between(self.before(x)) + 1)

    torch._dynamo.reset()
    model = Parts()
    compiled = torch.compile(model, backend="eager")
    for rank in (4, 16, 32):
        model.between.part.force_rank(rank)
        with record(model) as ran:
            compiled(torch.randn(2, 64))
        assert [int(d.rank) for _, d in ran] == [2, rank, 3]


def test_a_compiled_step_may_hold_the_block():
    torch._dynamo.reset()
    model, x = nn.Sequential(layer("learned")), torch.randn(4, 16)
    model[0].gate.choices = torch.tensor([2, 3, 4, 5, 6, 7, 8])

    def step(x):
        with record(model) as ran:
            y = model(x)
        return y.square().mean() * 0.0 + rank_penalty(ran)

    wanted, compiled = step(x), torch.compile(step, backend="aot_eager")
    for _ in range(2):
        found = compiled(x)
        torch.testing.assert_close(found, wanted)
    found.backward()
    assert bool(model[0].gate.scorer.last.bias.grad.any())


def test_a_compiled_transform_is_listed_where_it_is_recorded():
    torch._dynamo.reset()
    model, x = nn.Sequential(layer()), torch.randn(4, 16)
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def objective(parameters, inside):
        with record(model) as ran:
            y = functional_call(model, parameters, (x,))
        return y.sum() * 0.0 + (rank_penalty(ran) if inside else 0.0)

    def plainly(parameters):
        return functional_call(model, parameters, (x,)).sum() * 0.0

    def slopes(parameters):
        return grad(plainly)(parameters)

    with record(model) as outside:
        torch.compile(slopes, backend="eager")(parameters)
        wanted = grad(objective)(parameters, True)
        found = torch.compile(lambda p: grad(objective)(p, True), backend="eager")(parameters)
    assert not outside
    assert bool(wanted["0.gate.scorer.last.bias"].any())
    for name, slope in wanted.items():
        torch.testing.assert_close(found[name], slope)


def test_a_compiled_call_that_failed_is_not_taken_for_a_pass():
    torch._dynamo.reset()

    @torch.library.custom_op("adlrns_models_tests::fails", mutates_args=())
    def fails(x: torch.Tensor) -> torch.Tensor:
        raise ArithmeticError("as it is to")

    @fails.register_fake
    def _(x):
        return torch.empty_like(x)

    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = layer("spectral").eval()

        def forward(self, x):
            return fails(self.part(x))

    model = Fails()
    compiled = torch.compile(model, backend="aot_eager")
    lost = pytest.raises(RuntimeError, match="has left no decisions")
    with torch.no_grad(), lost, record(model), pytest.raises(ArithmeticError):
        compiled(torch.randn(2, 16))


@torch.no_grad()
def test_what_a_compiled_model_gave_before_the_block_failed_is_listed():
    torch._dynamo.reset()
    model, x = nn.Sequential(forced(4)), torch.randn(2, 64)
    compiled = torch.compile(model, backend="eager")

    def fails():
        compiled(x)
        raise ArithmeticError

    with pytest.raises(ArithmeticError), record(model) as ran:
        fails()
    assert [int(decision.rank) for _, decision in ran] == [4]


class Saving(nn.Module):
    def __init__(self, compiled, checkpointed=True):
        super().__init__()
        self.checkpointed = checkpointed
        torch.manual_seed(0)
        self.part, self.last = layer(), nn.Linear(16, 2)
        block = nn.Sequential(nn.Linear(8, 16), self.part)
        self.run = torch.compile(block, backend="aot_eager") if compiled else block

    def forward(self, x):
        if not self.checkpointed:
            return self.last(self.run(x))
        return self.last(checkpoint(self.run, x, use_reentrant=False))


def test_compiled_blocks_that_are_checkpointed_are_recorded():
    torch._dynamo.reset()
    x, slopes = torch.randn(4, 8), []
    for compiled in (False, True):
        model = Saving(compiled)
        for _ in range(2):
            model.zero_grad()
            with record(model) as ran:
                y = model(x)
            assert [one for one, _ in ran] == [model.part]
            loss = y.sum() * 0.0 + rank_penalty(ran)
            with record(layer()):
                loss.backward()
        slopes.append(model.part.gate.scorer.last.bias.grad)
    assert bool(slopes[0].any())
    torch.testing.assert_close(slopes[0], slopes[1])


@pytest.mark.parametrize("share", [None, 0.5])
def test_the_trainer_trains_compiled_blocks_that_are_checkpointed(tmp_path, share):
    x, ends = torch.randn(4, 8), []
    for checkpointed in (False, True):
        torch._dynamo.reset()
        model = Saving(True, checkpointed)
        low, high = (1e3 * model.part.cost(rank, batch=4).energy_j / 4 for rank in (2, 8))
        budget = None if share is None else low + share * (high - low)
        config = {"epochs": 1, "energy_penalty_weight": 0.1, "lr": 0.1}
        config |= {"energy_budget_mj_per_sample": budget}
        loader = [(x, torch.tensor([0, 1, 0, 1]))] * 3
        folder = tmp_path / str(checkpointed)
        ADLRNSTrainer(model, config, "cpu", folder, callbacks=[]).train(loader)
        ends.append(list(model.parameters()))
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other)


def test_a_block_about_another_model_leaves_graphs_as_they_are_and_holds_none_of_theirs():
    torch._dynamo.reset()
    model, other = nn.Sequential(layer()), nn.Sequential(layer())
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=counter)
    compiled(torch.randn(4, 16))
    with record(other):
        compiled(torch.randn(4, 16))
    assert counter.frame_count == 1
    with record(model), record(other):
        compiled(torch.randn(4, 16))
    assert not vars(board)


@torch.no_grad()
def test_a_layer_put_into_a_compiled_model_in_the_block_is_not_overlooked():
    torch._dynamo.reset()
    model, x = nn.Sequential(forced(4), nn.Tanh()), torch.randn(2, 64)
    compiled = torch.compile(model, backend="eager")

    def puts_in():
        compiled(x)
        model[1] = forced(16)
        compiled(x)

    with pytest.raises(RuntimeError, match="begin the block afterwards"), record(model):
        puts_in()
    with record(model) as ran:
        compiled(x)
    assert [int(decision.rank) for _, decision in ran] == [4, 16]


def test_a_layer_that_tells_its_rank_is_recorded_with_it():
    told = DynamicLowRankLayer(8, 8, r_max=8, r_min=2, budget_unit="flops")
    with record(told) as ran:
        ranks = [told(torch.randn(4, 8), budget)[1] for budget in (0.5, 1.0)]
    assert [d.rank for _, d in ran] == ranks == [2, 4]
