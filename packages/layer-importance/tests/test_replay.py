import copy

import pytest
import torch
from torch import Tensor, nn

from layer_importance import Call, Task, Unit, Units, discover
from layer_importance._edits import Edit, adds, branch, removal, with_branch
from layer_importance._preserve import preserved
from layer_importance._replay import Replay
from layer_importance._structure import stream, with_stream
from layer_importance._subject import Subject


class _Sum(Task):
    """The sum of the answer over everything but samples."""

    name = "sum"

    def loss(self, output, labels, batch):
        return stream(output).flatten(1).sum(1)


class _Residual(nn.Module):
    def __init__(self, d=6):
        super().__init__()
        self.up, self.down = nn.Linear(d, 8), nn.Linear(8, d)

    def forward(self, x):
        return x + self.down(torch.tanh(self.up(x)))


class _Attention(nn.Module):
    """Adds nothing itself: its parent does; answers with a tuple."""

    def __init__(self, d=6):
        super().__init__()
        self.mix, self.out = nn.Linear(d, d), nn.Linear(d, d)

    def forward(self, x):
        weights = (self.mix(x) @ x.transpose(1, 2)).softmax(-1)
        return self.out(weights @ x), weights


class _Transformer(nn.Module):
    def __init__(self, d=6):
        super().__init__()
        self.attention, self.mlp = _Attention(d), _Residual(d)

    def forward(self, x):
        return {"hidden": self.mlp(x + self.attention(x)[0]), "none": None}


class _Stack(nn.Module):
    """Blocks that answer with dictionaries."""

    def __init__(self, blocks):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)["hidden"]
        return (x,)


class _Shared(nn.Module):
    """One block several times, as in ALBERT."""

    def __init__(self, times=4):
        super().__init__()
        self.block, self.times = _Transformer(), times

    def forward(self, x):
        for _ in range(self.times):
            x = self.block(x)["hidden"]
        return x


class _Convolutions(nn.Module):
    def __init__(self, inplace):
        super().__init__()
        self.first, self.second = (nn.Conv2d(4, 4, 3, padding=1) for _ in "ab")
        self.inplace = inplace

    def forward(self, x):
        y = self.second(torch.relu(self.first(x)))
        if self.inplace:
            x += y
            return x.relu_()
        return torch.relu(x + y)


class _WritesItsInput(nn.Module):
    """The next block spoils what the one before handed on."""

    def __init__(self):
        super().__init__()
        self.layer, self.other = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        x.mul_(1.5)
        return x + self.other(torch.tanh(self.layer(x)))


def _nested():
    """Blocks, and the attention and the MLP inside them, which others would find as units."""
    net = _Stack([_Transformer() for _ in range(3)])
    units = []
    for i in range(3):
        parts = [("", "identity"), (".attention", "zero"), (".mlp", "identity")]
        units += [_unit(f"blocks.{i}{part}", removal=kind) for part, kind in parts]
    return net, torch.randn(3, 5, 6, dtype=torch.float64), Units(tuple(units))


def _nested_and_shared():
    net = _Shared()
    units = [
        _unit(path, call=call, removal=kind)
        for call in range(4)
        for path, kind in [("block", "identity"), ("block.attention", "zero")]
    ]
    return net, torch.randn(3, 5, 6, dtype=torch.float64), Units(tuple(units))


def _unit(path, *, call=None, removal="identity"):
    name = path if call is None else f"{path}#{call}"
    return Unit(
        name=name,
        path=path,
        chain="",
        index=0,
        tower="",
        type_name="",
        parameters=0,
        call=call,
        removal=removal,
    )


def _found(net, x):
    return net, x, discover(net.double(), x)


CASES = {
    "residual": lambda: _found(
        nn.Sequential(*[_Residual() for _ in range(4)]), torch.randn(3, 6, dtype=torch.float64)
    ),
    "dictionaries": lambda: _found(
        _Stack([_Transformer() for _ in range(3)]), torch.randn(3, 5, 6, dtype=torch.float64)
    ),
    "shared": lambda: _found(_Shared(), torch.randn(3, 5, 6, dtype=torch.float64)),
    "convolutions": lambda: _found(
        nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), *[_Convolutions(False) for _ in range(3)]),
        torch.randn(3, 1, 5, 5, dtype=torch.float64),
    ),
    "in place": lambda: _found(
        nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), *[_Convolutions(True) for _ in range(3)]),
        torch.randn(3, 1, 5, 5, dtype=torch.float64),
    ),
    "writes its input": lambda: _found(
        nn.Sequential(nn.Linear(6, 6), *[_WritesItsInput() for _ in range(3)]),
        torch.randn(3, 6, dtype=torch.float64),
    ),
    "nested": _nested,
    "nested and shared": _nested_and_shared,
}


def _subject(name, seed=0):
    torch.manual_seed(seed)
    net, x, units = CASES[name]()
    return Subject(net.double().eval(), units, _Sum(), [x]), x


def _hooked(net, unit, edit, call):
    """The obvious way: the whole model with a hook that puts another output in place."""
    seen, entered = [0], []

    def before(module, args, kwargs):
        x = stream((args, kwargs))
        entered.append(x.clone())

    def after(module, args, kwargs, output):
        seen[0] += 1
        x = entered.pop()
        if unit.call is not None and seen[0] - 1 != unit.call:
            return None
        y = stream(output, like=x)
        return with_stream(output, y, edit.change(x, y))

    module = net.get_submodule(unit.path)
    handles = [
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.register_forward_hook(after, with_kwargs=True),
    ]
    try:
        with torch.no_grad():
            return call.of(net)
    finally:
        for handle in handles:
            handle.remove()


def _call(x):
    return Call((x.clone(),)) if isinstance(x, Tensor) else x


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("edit", ["removal", "other branch", "constant"])
def test_a_replay_equals_a_hook_that_replaces_the_output(name, edit):
    subject, x = _subject(name)
    with preserved(subject.model, gradients=False), Replay(subject, x.clone()) as replay:
        for unit in subject.units:
            change = {
                "removal": removal(unit),
                # what is added depends on the input alone, which the hook sees too
                "other branch": Edit(lambda a, b, u=unit: with_branch(u, a, torch.sin(a))),
                "constant": Edit(lambda a, b: torch.full_like(b, 0.25)),
            }[edit]
            want = _hooked(subject.model, unit, change, _call(x))
            got = replay.run({unit.name: change})
            assert torch.equal(stream(got), stream(want)), unit.name
            again = replay.run({unit.name: change})
            assert torch.equal(stream(again), stream(want)), unit.name


@pytest.mark.parametrize("name", CASES)
def test_edits_that_run_the_unit_see_its_own_output_for_the_input_that_comes(name):
    subject, x = _subject(name)
    with preserved(subject.model, gradients=False), Replay(subject, x.clone()) as replay:
        for unit in subject.units:
            halved = adds(unit, lambda a, b: b / 2, runs=True)
            want = _hooked(subject.model, unit, halved, _call(x))
            assert torch.equal(stream(replay.run({unit.name: halved})), stream(want)), unit.name


# hooks do not see what a block in place did to its input before
@pytest.mark.parametrize("name", [n for n in CASES if n not in ("in place", "writes its input")])
def test_several_edits_at_once_equal_several_hooks(name):
    subject, x = _subject(name)
    first = subject.units[0]
    last = [u for u in subject.units if u.path.count(".") == first.path.count(".")][-1]
    edits = {u.name: Edit(lambda a, b: -a) for u in (first, last)}
    with preserved(subject.model, gradients=False), Replay(subject, x.clone()) as replay:
        got = stream(replay.run(edits))
    if first.path == last.path:
        want = _two_calls(subject.model, first, last, x)
    else:
        hooked = copy.deepcopy(subject.model)
        hooked.get_submodule(first.path).register_forward_hook(
            lambda m, args, out: with_stream(out, stream(out), -args[0])
        )
        want = _hooked(hooked, last, edits[last.name], _call(x))
    assert torch.equal(got, stream(want))


def _two_calls(net, first, last, x):
    seen = [0]

    def after(module, args, output):
        seen[0] += 1
        if seen[0] - 1 in (first.call, last.call):
            return with_stream(output, stream(output), -args[0])
        return None

    handle = net.get_submodule(first.path).register_forward_hook(after)
    try:
        with torch.no_grad():
            return net(x)
    finally:
        handle.remove()


@pytest.mark.parametrize("name", CASES)
def test_the_unchanged_run_and_a_run_without_edits_are_the_model_s_own_bit_for_bit(name):
    subject, x = _subject(name)
    with torch.no_grad():
        want = stream(subject.model(x.clone()))
    with preserved(subject.model, gradients=False), Replay(subject, x.clone()) as replay:
        assert torch.equal(stream(replay.output), want)
        assert torch.equal(stream(replay.run({})), want)
        for unit in subject.units:
            same = replay.run({unit.name: Edit(lambda a, b: b)})
            assert torch.equal(stream(same), want), unit.name
            same = replay.run({unit.name: Edit(lambda a, b: b, runs=True)})
            assert torch.equal(stream(same), want), unit.name


def test_leave_one_out_runs_half_of_what_the_naive_way_runs():
    length = 7
    torch.manual_seed(0)
    net = nn.Sequential(*[_Residual() for _ in range(length)])
    x = torch.randn(2, 6)
    runs = [0] * length
    for i, block in enumerate(net):
        block.up.register_forward_hook(lambda *a, i=i: runs.__setitem__(i, runs[i] + 1))
    subject = Subject(net, discover(net, x), _Sum(), [x])
    _ = subject.layouts
    runs[:] = [0] * length
    with preserved(net, gradients=False), Replay(subject, x) as replay:
        for unit in subject.units:
            replay.run({unit.name: removal(unit)})
    # block i runs once unchanged and once for each unit before it
    assert runs == [1 + i for i in range(length)]
    assert sum(runs) == replay.executed == length * (length + 1) // 2
    assert replay.length == length


def test_the_model_is_as_it_was_after_an_edit_that_fails():
    subject, x = _subject("residual")
    before = {k: v.clone() for k, v in subject.model.state_dict().items()}

    def fail(x, y):
        raise RuntimeError("no")

    with (
        pytest.raises(RuntimeError, match="no"),
        preserved(subject.model, gradients=False),
        Replay(subject, x) as replay,
    ):
        replay.run({"1": Edit(fail)})
    assert all("forward" not in m.__dict__ for m in subject.model.modules())
    after = subject.model.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items())


def test_gradients_of_unit_outputs_are_autograd_s():
    subject, x = _subject("residual")
    streams, y = [], x
    for block in subject.model:
        y = block(y)
        y.retain_grad()
        streams.append(y)
    y.square().sum().backward()

    class Square(_Sum):
        def loss(self, output, labels, batch):
            return output.square().sum(1)

    subject.task = Square()
    with preserved(subject.model, gradients=True):
        with Replay(subject, x, gradients=True) as replay:
            got = [replay.gradient(unit) for unit in subject.units]
            assert not replay.output.requires_grad
            assert not replay.y(subject.units[0]).requires_grad
        assert replay.executed == len(subject.units)
    for grad, want in zip(got, streams, strict=True):
        torch.testing.assert_close(grad, want.grad, rtol=1e-12, atol=0)


# autograd itself refuses the one that overwrites what its backward pass needs
@pytest.mark.parametrize("name", [n for n in CASES if n != "in place"])
def test_a_run_with_gradients_records_what_one_without_does(name):
    subject, x = _subject(name)
    with preserved(subject.model, gradients=False):
        with (
            Replay(subject, x.clone()) as plain,
            Replay(subject, x.clone(), gradients=True) as both,
        ):
            for unit in subject.units:
                assert torch.equal(plain.x(unit), both.x(unit)), unit.name
                assert torch.equal(plain.y(unit), both.y(unit)), unit.name
                gone = {unit.name: removal(unit)}
                assert torch.equal(plain.losses_with(gone), both.losses_with(gone)), unit.name
        with pytest.raises(ValueError, match="gradients must be asked for"):
            plain.gradient(subject.units[0])


def test_what_enters_a_unit_can_be_replaced():
    subject, x = _subject("residual")
    edit = Edit(lambda a, b: b, runs=True, enter=lambda a: 2 * a)
    with preserved(subject.model, gradients=False), Replay(subject, x) as replay:
        got = replay.run({"2": edit})
        net = subject.model
        with torch.no_grad():
            want = net[3](net[2](2 * net[1](net[0](x))))
    assert torch.equal(got, want)


def test_the_branch_of_a_dead_block_is_exactly_zero():
    subject, x = _subject("residual")
    nn.init.zeros_(subject.model[1].down.weight)
    nn.init.zeros_(subject.model[1].down.bias)
    unit = subject.units["1"]
    with preserved(subject.model, gradients=False), Replay(subject, x) as replay:
        assert not branch(unit, replay.x(unit), replay.y(unit)).any()
        assert torch.equal(replay.losses_with({"1": removal(unit)}), replay.losses)


transformers = pytest.importorskip("transformers")


def _t5():
    config = transformers.T5Config(
        vocab_size=32, d_model=16, d_kv=8, d_ff=24, num_layers=3, num_heads=2, dropout_rate=0.0
    )
    ids = torch.randint(2, 32, (2, 6))
    batch = {"input_ids": ids, "decoder_input_ids": ids.flip(1)[:, :5]}
    return transformers.T5ForConditionalGeneration(config), batch


def _albert():
    config = transformers.AlbertConfig(
        vocab_size=32,
        embedding_size=8,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=24,
    )
    return transformers.AlbertModel(config), {"input_ids": torch.randint(2, 32, (2, 6))}


def _bert():
    config = transformers.BertConfig(
        vocab_size=32,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=24,
    )
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    ids = torch.randint(2, 32, (2, 6))
    return transformers.BertModel(config), {"input_ids": ids, "attention_mask": mask}


def _llama():
    config = transformers.LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=24,
    )
    return transformers.LlamaForCausalLM(config), {"input_ids": torch.randint(2, 32, (2, 6))}


@pytest.mark.parametrize("make", [_t5, _albert, _bert, _llama])
def test_real_architectures_replay_as_hooks_would_have_them(make):
    torch.manual_seed(0)
    model, batch = make()
    model = model.double().eval()
    subject = Subject(model, discover(model, batch), _Sum(), [batch])
    assert len(subject.units) >= 3
    with preserved(model, gradients=False), Replay(subject, batch) as replay:
        with torch.no_grad():
            assert torch.equal(stream(replay.output), stream(subject.forward(batch)))
        for unit in subject.units:
            want = _hooked(model, unit, removal(unit), subject.call(batch))
            got = replay.run({unit.name: removal(unit)})
            assert torch.equal(stream(got), stream(want)), unit.name
