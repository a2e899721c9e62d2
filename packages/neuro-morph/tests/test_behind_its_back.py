from pathlib import Path

import pytest
import torch
from torch import nn

from neuro_morph import Morpher, Widen, load_checkpoint, save_checkpoint


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def test_a_run_knows_the_model_as_it_is_after_another_run_has_grown_it() -> None:
    model, x = mlp(), torch.randn(5, 4)
    one, other = (Morpher(model, example_inputs=x, capture="dispatch") for _ in range(2))
    assert one.graph["0"].size == 8
    other.apply(Widen("0", by=5))
    before = model(x).detach()
    event = one.apply(Widen("0", by=1))
    assert (event.parameters_added, one.graph["0"].size) == (8, 14)
    torch.testing.assert_close(model(x).detach(), before)


def test_a_wrapped_model_is_saved_and_loaded_as_what_is_inside(tmp_path: Path) -> None:
    model, x = mlp(), torch.randn(5, 4)
    morpher = Morpher(nn.DataParallel(model), example_inputs=x, capture="dispatch")
    morpher.apply(Widen("0", by=2))
    save_checkpoint(tmp_path / "a.safetensors", nn.DataParallel(model), morpher.spec)
    plain, wrapped = mlp(), nn.DataParallel(mlp())
    for loaded in (plain, wrapped):
        load_checkpoint(tmp_path / "a.safetensors", loaded)
    for loaded in (plain, wrapped.module):
        assert torch.equal(loaded(x), model(x))


def test_an_optimizer_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match="optimizer must hold parameters of the model"):
        Morpher(mlp(), torch.optim.Adam(mlp().parameters()), example_inputs=torch.ones(1, 4))
