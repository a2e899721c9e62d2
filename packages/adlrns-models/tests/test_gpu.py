"""The same on a CUDA device."""

import copy

import pytest
import torch
from torch import nn

from adlrns_models import make_elastic, materialize_model, wrap_model_with_adaptive

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def network():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 20)
    )


def test_a_parent_moves_factors_and_sketch_and_the_rank_stays():
    model = wrap_model_with_adaptive(network(), adapt_every=2, adapt_cooldown=0, r_min=1, eps=0.3)
    model(torch.randn(8, 3, 6, 6))
    ranks = [model[0].current_rank(), model[3].current_rank()]
    model.cuda()
    assert [model[0].current_rank(), model[3].current_rank()] == ranks
    for _ in range(4):
        model(torch.randn(8, 3, 6, 6, device="cuda")).sum().backward()
    for layer in (model[0], model[3]):
        assert layer.sketch.sketch().device.type == "cuda"
        assert layer.rank.device.type == "cpu"
        layer.adapt_now()
    model.cpu()(torch.randn(8, 3, 6, 6))
    assert model[0].sketch.sketch().device.type == "cpu"


@pytest.mark.parametrize("backend", ["auto", "cpu", "gpu"])
def test_each_backend_gives_the_same_factors(backend):
    plain = network()
    here = wrap_model_with_adaptive(copy.deepcopy(plain))
    there = wrap_model_with_adaptive(copy.deepcopy(plain).cuda(), svd_backend=backend)
    for a, b in zip(here.parameters(), there.parameters(), strict=True):
        torch.testing.assert_close(b.cpu(), a, rtol=1e-3, atol=1e-4)


def test_an_elastic_model_is_the_same_there():
    model = network().eval()
    batches = [torch.randn(32, 3, 6, 6) for _ in range(2)]
    here = make_elastic(model, batches).eval()
    there = make_elastic(copy.deepcopy(model).cuda(), [x.cuda() for x in batches]).eval()
    for share in (0.7, 0.4):
        assert here.set_budget(flops=share).ranks == there.set_budget(flops=share).ranks
        found = there(batches[0].cuda()).cpu()
        torch.testing.assert_close(found, here(batches[0]), rtol=1e-2, atol=1e-2)
    settled = materialize_model(there)
    torch.testing.assert_close(
        settled(batches[0].cuda()), there(batches[0].cuda()), rtol=1e-3, atol=1e-3
    )


def test_one_graph_serves_every_rank():
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    model = wrap_model_with_adaptive(network().cuda(), adapt_every=3, adapt_cooldown=0, r_min=1)
    run = torch.compile(model, backend=counter, fullgraph=True)
    x = torch.randn(8, 3, 6, 6, device="cuda")
    for rank in range(1, 12):
        model[3].set_rank(rank)
        run(x)
    assert counter.frame_count == 1


def test_calls_there_are_measured_and_budgeted_in_seconds():
    x = torch.randn(256, 512, device="cuda")
    model = nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 512)).cuda()
    elastic = make_elastic(model, [x])
    found = elastic.measure(x, repeats=3)
    assert found.machine["device"] == torch.cuda.get_device_name()
    assert all(t > 0 for times in found.seconds.values() for t in times)
    elastic.set_budget(latency_s=elastic.full_cost("latency_s"))
    assert elastic.ranks() == {"0": 512, "2": 512}
