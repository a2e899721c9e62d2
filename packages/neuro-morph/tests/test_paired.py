import pytest
import torch
from torch import Tensor, nn

from neuro_morph import Morpher, Tournament, Widen, paired_gain
from neuro_morph._paired import LEAST_PAIRS

CLEAR = torch.linspace(2.0, 3.0, 40)


@pytest.mark.parametrize("pairs", [1, 2, 3, LEAST_PAIRS - 1, LEAST_PAIRS, 40])
def test_of_few_pairs_nothing_is_sure_however_alike_they_are(pairs: int) -> None:
    gain = paired_gain(CLEAR[:pairs], CLEAR[:pairs] / 2)
    assert gain.mean == pytest.approx(float(CLEAR[:pairs].mean()) / 2)
    if pairs < LEAST_PAIRS:
        assert (gain.lower, gain.p_value) == (-float("inf"), 1.0)
        assert gain.why_not.startswith("a gain needs at least 8 held-out losses to be told from n")
        assert f"got {pairs}: give one for each example" in gain.why_not
    else:
        assert gain.lower > 0.9
        assert gain.p_value < 1e-6


def test_of_differences_with_long_tails_it_errs_no_more_often_than_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    for pairs in (LEAST_PAIRS, 20):
        noise = torch.randn(2000, pairs, generator=generator)
        tails = noise * torch.empty(2000, pairs).exponential_(generator=generator).sqrt()
        wrong = sum(paired_gain(each, torch.zeros(pairs)).lower > 0 for each in tails)
        assert 0.03 < wrong / 2000 < 0.065


@pytest.mark.parametrize("each", [False, True], ids=["of batches", "of examples"])
def test_a_tournament_says_that_it_has_too_few_losses_to_tell(each: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1))
    x = torch.randn(128, 2)
    data = [(part, part.prod(1, keepdim=True)) for part in x.split(32)]

    def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        found = (model(batch[0]) - batch[1]).square()
        return found if each else found.mean()

    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    morpher = Morpher(model, optimizer, example_inputs=x[:1], capture="dispatch")
    result = Tournament(morpher, loss_fn, data[:2], data[2:], steps=60).run([Widen("0", by=8)])
    gain = result.trials[0].gain
    assert gain is not None
    assert gain.mean > 0.1
    assert gain.pairs == (64 if each else 2)
    assert (result.winner is None) is not each
    if not each:
        assert morpher.events[-1].why_not == gain.why_not
