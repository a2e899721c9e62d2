import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from layer_importance._batch import take
from layer_importance._discover import discover
from layer_importance._preserve import preserved
from layer_importance._subject import Subject
from layer_importance._task import Task
from layer_importance._tasks import BUILT_IN, task
from layer_importance._tasks._boxes import overlaps
from layer_importance._tasks._ranks import ndcg, ranks
from layer_importance._tasks.classification import Classification
from layer_importance._tasks.detection import Detection
from layer_importance._tasks.generation import Generation
from layer_importance._tasks.qa import QuestionAnswering
from layer_importance._tasks.recommendation import Recommendation
from layer_importance._tasks.reinforcement_learning import ReinforcementLearning
from layer_importance._tasks.retrieval import Retrieval
from layer_importance._tasks.segmentation import Segmentation
from layer_importance._tasks.summarization import Summarization
from layer_importance._tasks.translation import Translation

NAMES = [
    "classification",
    "generation",
    "retrieval",
    "recommendation",
    "detection",
    "segmentation",
    "translation",
    "summarization",
    "qa",
    "reinforcement_learning",
]


def close(a, b):
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=1e-12, atol=1e-12)


def numbers(values):
    return torch.tensor(values, dtype=torch.float64)


def noise(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


# one row for each task: what a model could answer, the batch
def example(name):
    ids = torch.arange(12).reshape(3, 4) % 5
    boxes = torch.rand(3, 6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    things = [
        {"class_labels": torch.tensor(c), "boxes": boxes[i, : len(c)] / 2}
        for i, c in enumerate(([0, 1], [2], []))
    ]
    return {
        "classification": (noise(3, 4), (noise(3, 2), torch.tensor([0, 3, 1]))),
        "generation": (noise(3, 4, 5), {"input_ids": ids}),
        "retrieval": ((noise(3, 4), noise(3, 4, seed=1)), (noise(3, 2), noise(3, 2))),
        "recommendation": (noise(3, 7), (noise(3, 2), torch.tensor([0, 6, 1]))),
        "detection": ((noise(3, 6, 4), boxes), (noise(3, 3, 8, 8), things)),
        "segmentation": (noise(3, 4, 2, 2), (noise(3, 1, 2, 2), ids.reshape(3, 2, 2) % 4)),
        "translation": (noise(3, 4, 5), (ids, ids, ids)),
        "summarization": (noise(3, 4, 5), (ids, ids, ids)),
        "qa": (noise(3, 9, 2), (ids, torch.tensor([[0, 2], [3, 3], [8, 8]]))),
        "reinforcement_learning": (
            noise(3, 2),
            {
                "observations": noise(3, 4),
                "actions": torch.tensor([0, 1, 1]),
                "advantages": numbers([1.0, -2.0, 0.5]),
            },
        ),
    }[name]


def one_output(output, row):
    return tuple(part[[row]] for part in output) if isinstance(output, tuple) else output[[row]]


def test_all_ten_are_there():
    assert {kind.name for kind in BUILT_IN} >= set(NAMES)
    assert isinstance(task("summarisation"), Summarization)
    with pytest.raises(ValueError, match=r"task must be a Task or one of classification.*'chess'"):
        task("chess")


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_has_one_number_a_sample(name):
    kind, (output, batch) = task(name), example(name)
    losses = kind.loss(output, kind.labels(batch), batch)
    assert losses.shape == (3,)
    assert losses.dtype == torch.float64
    assert kind.count(kind.labels(batch), batch) == 3
    assert kind.quality(output, kind.labels(batch), batch).shape == (3,)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "retrieval"])
def test_the_loss_of_a_sample_is_the_same_alone(name):
    kind, (output, batch) = task(name), example(name)
    together = kind.loss(output, kind.labels(batch), batch)
    for row in range(3):
        single = take(batch, [row])
        close(kind.loss(one_output(output, row), kind.labels(single), single), together[[row]])


@pytest.mark.parametrize("name", NAMES)
def test_drawn_labels_have_the_models_distribution(name):
    kind, (output, batch) = task(name), example(name)
    if not kind.can_sample:
        assert name == "detection"
        with pytest.raises(NotImplementedError):
            kind.sample(output, batch, torch.Generator())
        return
    # E grad log p = 0 under the model itself, whatever the data says
    leaf = [
        part.clone().requires_grad_()
        for part in (output if isinstance(output, tuple) else [output])
    ]
    answer = tuple(leaf) if isinstance(output, tuple) else leaf[0]
    generator = torch.Generator().manual_seed(0)
    rounds = 400
    total = sum(
        kind.loss(answer, kind.sample(answer, batch, generator), batch).sum() for _ in range(rounds)
    )
    grads = [one / rounds for one in torch.autograd.grad(total, leaf)]
    kind_of_data = kind.loss(answer, kind.labels(batch), batch).sum()
    data = torch.autograd.grad(kind_of_data, leaf)
    for drawn, known in zip(grads, data, strict=True):
        assert drawn.abs().max() < 0.12 < known.abs().max()


@pytest.mark.parametrize(
    "name", ["classification", "retrieval", "recommendation", "reinforcement_learning"]
)
def test_listed_answers_are_a_distribution(name):
    kind, (output, batch) = task(name), example(name)
    every = kind.enumerate(output, batch)
    close(sum(p for _, p in every), torch.ones(3, dtype=torch.float64))
    for labels, probability in every:
        close(kind.loss(output, labels, batch), -probability.log())


@pytest.mark.parametrize("name", ["generation", "segmentation", "qa", "detection"])
def test_too_many_answers_are_not_listed(name):
    with pytest.raises(NotImplementedError, match="cannot list its answers"):
        task(name).enumerate(*example(name))


# classification


def test_uniform_logits_cost_the_log_of_the_number_of_classes():
    losses = Classification().loss(torch.zeros(3, 7).double(), torch.tensor([0, 3, 6]), None)
    close(losses, torch.full((3,), math.log(7), dtype=torch.float64))


def test_one_logit_is_the_log_odds():
    losses = Classification().loss(numbers([[2.0], [2.0]]), torch.tensor([1, 0]), None)
    close(losses, numbers([math.log1p(math.exp(-2)), math.log1p(math.exp(2))]))


def test_probabilities_as_labels_cost_their_cross_entropy():
    logits, labels = noise(4, 3), noise(4, 3, seed=1).softmax(-1)
    losses = Classification().loss(logits, labels, None)
    close(losses, -(labels * logits.log_softmax(-1)).sum(-1))


def test_an_unlabelled_sample_has_loss_zero_and_no_quality_and_is_never_drawn():
    kind, labels = Classification(), torch.tensor([1, -100, 0])
    output, batch = noise(3, 4), (noise(3, 2), labels)
    assert kind.loss(output, labels, batch)[1] == 0
    assert kind.quality(output, labels, batch)[1].isnan()
    assert kind.sample(output, batch, torch.Generator())[1] == -100
    assert all(drawn[1] == -100 for drawn, _ in kind.enumerate(output, batch))


@pytest.mark.parametrize(
    "labels, error, words",
    [
        (torch.tensor([0.0, 1.0]), TypeError, "integers, got torch.float32"),
        (torch.tensor([[0], [1]]), ValueError, r"shape \[2\] for logits \[2, 3\], got \[2, 1\]"),
        (torch.tensor([0, 3]), ValueError, r"in 0..2.*got 3"),
        (torch.tensor([0, -1]), ValueError, r"in 0..2.*got -1"),
        (None, TypeError, "tensor of integers, got NoneType"),
        (torch.rand(2, 4), ValueError, r"probabilities must have shape \[2, 3\]"),
    ],
)
def test_wrong_labels_are_named(labels, error, words):
    with pytest.raises(error, match=words):
        Classification().loss(noise(2, 3), labels, None)


def test_logits_of_tokens_are_no_classification():
    with pytest.raises(ValueError, match=r"logits \[N, C\], got \[2, 5, 3\].*generation"):
        Classification().loss(noise(2, 5, 3), torch.tensor([0, 1]), None)


# sequences


def test_a_text_is_judged_by_its_own_next_tokens():
    ids, logits = torch.tensor([[3, 1, 4, 1]]), noise(1, 4, 5)
    nats = -logits.log_softmax(-1)
    expected = (nats[0, 0, 1] + nats[0, 1, 4] + nats[0, 2, 1]) / 3
    output = SimpleNamespace(logits=logits)
    for batch in ({"input_ids": ids}, {"input_ids": ids, "labels": ids}, ids, (ids,)):
        kind = Generation()
        close(kind.loss(output, kind.labels(batch), batch), expected[None])


def test_labels_of_a_tuple_stand_under_their_logits():
    ids, logits = torch.tensor([[3, 1, 4, 1]]), noise(1, 4, 5)
    nats = -logits.log_softmax(-1)[0].gather(1, ids[0][:, None]).mean()
    close(Generation().loss(logits, ids, (ids, ids)), nats[None])
    shifted = Generation(shift=True).loss(logits, ids, (ids, ids))
    close(shifted, Generation().loss(logits, ids, {"input_ids": ids}))


@given(st.integers(0, 4), st.integers(0, 2**31))
def test_padding_counts_nowhere(extra, seed):
    ids, logits = torch.tensor([[3, 1, 4, 1]]), noise(1, 4, 5, seed=seed)
    filler = torch.full((1, extra), 2)
    mask = torch.cat([torch.ones(1, 4), torch.zeros(1, extra)], 1).long()
    batch = {"input_ids": torch.cat([ids, filler], 1), "attention_mask": mask}
    output = torch.cat([logits, 1e3 * noise(1, extra, 5, seed=seed + 1)], 1)
    kind = Generation()
    alone = kind.loss(logits, ids, {"input_ids": ids})
    close(kind.loss(output, kind.labels(batch), batch), alone)
    labels = torch.where(mask.bool(), batch["input_ids"], -100)
    close(kind.loss(output, labels, {"input_ids": batch["input_ids"], "labels": labels}), alone)
    padded = torch.where(mask.bool(), batch["input_ids"], 0)
    close(Generation(pad=0, shift=True).loss(output, padded, padded), alone)


@pytest.mark.parametrize("labelled", [False, True])
def test_the_side_of_the_padding_does_not_matter(labelled):
    ids, logits = torch.tensor([[3, 1, 4, 1]]), noise(1, 4, 5)
    filler, other = torch.zeros(1, 2).long(), 1e3 * noise(1, 2, 5, seed=1)
    kind = Generation()
    alone = kind.loss(logits, ids, {"input_ids": ids})
    for left in (False, True):

        def beside(filling, real, left=left):
            return torch.cat([filling, real] if left else [real, filling], 1)

        batch = {
            "input_ids": beside(filler, ids),
            "attention_mask": beside(filler, torch.ones(1, 4).long()),
        }
        if labelled:
            batch["labels"] = beside(filler - 100, ids)
        close(kind.loss(beside(other, logits), kind.labels(batch), batch), alone)


def test_likelihood_is_one_over_the_perplexity():
    ids = torch.tensor([[3, 1, 4, 1]])
    found = Generation(metric="likelihood").quality(torch.zeros(1, 4, 5), ids, ids)
    torch.testing.assert_close(found, numbers([1 / 5]))


def test_rouge_l_is_the_longest_common_subsequence():
    # said 1 2 3 4, meant 2 4 3 4: the longest common one is 2 3 4
    said = nn.functional.one_hot(torch.tensor([[1, 2, 3, 4, 0]]), 5).double()
    labels = torch.tensor([[2, 4, 3, 4, -100]])
    close(Summarization().quality(said, labels, None), numbers([0.75]))
    close(Translation().quality(said, labels, None), numbers([0.5]))
    close(Translation(metric="exact_match").quality(said, labels, None), numbers([0.0]))


def test_a_text_without_answers_costs_nothing():
    labels = torch.tensor([[-100, -100], [1, -100]])
    logits = noise(2, 2, 3).requires_grad_()
    losses = Translation().loss(logits, labels, None)
    assert losses[0] == 0
    losses.sum().backward()
    assert logits.grad.isfinite().all()
    assert Translation().quality(logits, labels, None).isnan().tolist() == [True, False]


def test_an_unknown_metric_is_refused():
    with pytest.raises(ValueError, match=r"metric must be one of accuracy, .*got 'bleu'"):
        Translation(metric="bleu")


# retrieval


def test_one_document_a_query_is_recognised_by_its_own_direction():
    eye = torch.eye(4).double()
    close(
        Retrieval().loss((3 * eye, eye), torch.arange(4), None),
        numbers([math.log(3 / math.e + 1)] * 4),
    )
    cold = Retrieval(temperature=0.5, similarity="dot").loss((eye, eye), torch.arange(4), None)
    close(cold, numbers([math.log(3 * math.exp(-2) + 1)] * 4))


def test_scores_and_embeddings_are_both_read():
    queries, documents = noise(3, 4), noise(5, 4, seed=1)
    kind, labels = Retrieval(similarity="dot"), torch.tensor([4, 0, 2])
    scores = queries @ documents.T
    expected = -scores.log_softmax(-1)[torch.arange(3), labels]
    for output in (
        (queries, documents),
        scores,
        {"scores": scores},
        SimpleNamespace(logits_per_text=scores),
        SimpleNamespace(text_embeds=queries, image_embeds=documents),
    ):
        close(kind.loss(output, labels, None), expected)


def test_a_query_has_no_rivals_in_a_batch_of_one():
    with pytest.raises(ValueError, match="at least 2 documents.*batches of 2 or more"):
        Retrieval().loss((noise(1, 4), noise(1, 4)), torch.tensor([0]), None)


def test_a_model_that_tells_nothing_apart_gains_nothing():
    flat = torch.zeros(2, 9)
    close(Retrieval().quality(flat, torch.tensor([0, 8]), None), numbers([0.2, 0.2]))
    assert Recommendation(k=4).quality(flat, torch.tensor([0, 8]), None).tolist() == [0, 0]


@given(st.permutations(list(range(6))))
def test_ranks_do_not_depend_on_the_order_asked(order):
    scores = torch.tensor([[3.0, 1.0, 1.0, -2.0, 1.0, 0.0]])
    assert ranks(scores[:, order]).tolist() == [ranks(scores)[0, order].tolist()]
    assert ranks(scores).tolist() == [[1, 3, 3, 6, 3, 5]]


# recommendation


def test_ndcg_is_one_over_the_log_of_the_rank():
    scores = torch.tensor([[4.0, 3.0, 2.0, 1.0]])
    one = torch.tensor([[False, False, True, False]])
    close(ndcg(scores, one, 4), numbers([0.5]))
    close(ndcg(scores, one, 2), numbers([0.0]))
    both = torch.tensor([[True, False, True, False]])
    close(ndcg(scores, both, 4), numbers([1.5 / (1 + 1 / math.log2(3))]))
    assert ndcg(scores, ~one & one, 4).isnan().all()


def test_bpr_is_the_mean_over_pairs():
    scores, chosen = noise(2, 5), torch.tensor([[1, 0, 1, 0, 0], [0, 0, 0, 0, 1]])
    expected = [
        torch.stack(
            [
                -nn.functional.logsigmoid(row[i] - row[j])
                for i in range(5)
                for j in range(5)
                if picked[i] and not picked[j]
            ]
        ).mean()
        for row, picked in zip(scores, chosen, strict=True)
    ]
    kind = Recommendation(objective="bpr")
    close(kind.loss(scores, chosen, None), torch.stack(expected))
    close(kind.loss(scores[1:], torch.tensor([4]), None), expected[1][None])
    assert not kind.can_sample


def test_softmax_over_several_choices_is_the_mean_of_each():
    scores, kind = noise(1, 5), Recommendation()
    each = [kind.loss(scores, torch.tensor([i]), None) for i in (1, 3)]
    close(kind.loss(scores, torch.tensor([[0, 1, 0, 1, 0]]), None), sum(each) / 2)


@pytest.mark.parametrize(
    "labels, words",
    [
        (torch.full((2, 5), 3.5), "0 or 1"),
        (torch.zeros(2, 4), r"shape \[2, 5\], got \[2, 4\]"),
        (torch.tensor([0, 5]), "got 5"),
    ],
)
def test_choices_must_be_of_the_items(labels, words):
    with pytest.raises(ValueError, match=words):
        Recommendation().loss(noise(2, 5), labels, None)


def test_bpr_without_rivals_is_refused():
    with pytest.raises(ValueError, match="not chosen"):
        Recommendation(objective="bpr").loss(noise(1, 3), torch.ones(1, 3), None)


# detection


def test_overlaps_of_known_boxes():
    box = numbers([0.5, 0.5, 0.4, 0.4])
    others = numbers(
        [[0.5, 0.5, 0.4, 0.4], [0.7, 0.5, 0.4, 0.4], [0.5, 0.5, 0.2, 0.2], [1.5, 0.5, 0.4, 0.4]]
    )
    iou, generalised = overlaps(box.expand(4, 4), others)
    close(iou, numbers([1, 1 / 3, 1 / 4, 0]))
    # apart by 1: both cover 0.8 of the hull's 1.4
    close(generalised, numbers([1, 1 / 3, 1 / 4, -0.6 / 1.4]))


def test_things_are_matched_whatever_their_order():
    output, (_, things) = example("detection")
    kind = Detection()
    before = kind.loss(output, things, None)
    turned = [{key: part.flip(0) for key, part in one.items()} for one in things]
    close(kind.loss(output, turned, None), before)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    close(kind.loss(tuple(part[:, order] for part in output), things, None), before)


def test_the_right_predictions_cost_nothing_and_find_everything():
    _, (_, things) = example("detection")
    boxes = torch.rand(3, 6, 4).double()
    logits = torch.full((3, 6, 4), -50.0).double()
    logits[:, :, 3] = 50
    for row, one in enumerate(things):
        for place, (label, box) in enumerate(zip(one["class_labels"], one["boxes"], strict=True)):
            logits[row, 5 - place] = -50
            logits[row, 5 - place, label] = 50
            boxes[row, 5 - place] = box
    kind = Detection()
    assert kind.loss((logits, boxes), things, None).max() < 1e-12
    assert kind.quality((logits, boxes), things, None).tolist() == [1, 1, 1]
    nothing = torch.zeros(3, 6, 4)
    nothing[:, :, 3] = 1
    assert kind.quality((nothing, boxes), things, None).tolist() == [0, 0, 1]


def test_fixed_predictions_are_judged_one_by_one():
    logits, boxes = noise(1, 2, 3), torch.rand(1, 2, 4).double()
    labels = [{"labels": torch.tensor([1, 2]), "boxes": torch.rand(2, 4).double()}]
    nats = -logits.log_softmax(-1)[0]
    expected = (nats[0, 1] + 0.1 * nats[1, 2]) / 1.1
    expected = expected + 5 * (boxes[0, 0] - labels[0]["boxes"][0]).abs().sum()
    kind = Detection(matching="fixed", giou=0)
    close(kind.loss((logits, boxes), labels, None), expected[None])
    dense = {key: part[None] for key, part in labels[0].items()}
    close(kind.loss((logits, boxes), dense, None), expected[None])
    with pytest.raises(ValueError, match=r"each of 2 predictions, got \[1"):
        kind.loss((logits, boxes), [{"labels": torch.tensor([1]), "boxes": boxes[0, :1]}], None)


@pytest.mark.parametrize(
    "output, labels, words",
    [
        (noise(1, 2, 3), [{}], r"logits \[N, Q, C \+ 1\] and boxes"),
        ((noise(1, 2, 3), noise(1, 2, 4)), [], "list of 1 mappings, one an image, got 0"),
        ((noise(1, 2, 3), noise(1, 2, 4)), [{"boxes": noise(1, 4)}], "class_labels and boxes"),
        (
            (noise(1, 2, 3), noise(1, 2, 4)),
            [{"labels": torch.tensor([0]), "boxes": noise(2, 4)}],
            r"shape \[1, 4\], got \[2, 4\]",
        ),
    ],
)
def test_wrong_things_are_named(output, labels, words):
    with pytest.raises(ValueError, match=words):
        Detection().loss(output, labels, None)


def test_targets_are_cut_with_their_images():
    _, batch = example("detection")
    images, things = take(batch, [2, 0])
    assert [one["class_labels"].tolist() for one in things] == [[], [0, 1]]
    assert torch.equal(images, batch[0][[2, 0]])


# segmentation


def test_pixels_are_averaged_where_they_are_labelled():
    logits, labels = noise(1, 3, 2, 2), torch.tensor([[[0, 255], [2, 1]]])
    nats = -logits.log_softmax(1)[0]
    expected = (nats[0, 0, 0] + nats[2, 1, 0] + nats[1, 1, 1]) / 3
    close(Segmentation(ignored=255).loss(logits, labels, None), expected[None])
    with pytest.raises(ValueError, match="got 255"):
        Segmentation().loss(logits, labels, None)


def test_iou_is_averaged_over_the_classes_that_are_there():
    said = torch.tensor([[[0, 0], [1, 1]]])
    labels = torch.tensor([[[0, 1], [1, 1]]])
    logits = nn.functional.one_hot(said, 5).movedim(-1, 1).double()
    close(Segmentation().quality(logits, labels, None), numbers([(1 / 2 + 2 / 3) / 2]))
    close(Segmentation(metric="accuracy").quality(logits, labels, None), numbers([0.75]))


def test_coarse_logits_are_scaled_up():
    flat = noise(1, 3, 1, 1)
    labels = torch.randint(0, 3, (1, 4, 4))
    nats = -flat.log_softmax(1)[0, :, 0, 0]
    close(Segmentation().loss(flat, labels, None), nats[labels].mean()[None])


# questions


def test_the_loss_of_a_span_is_minus_its_log_probability():
    logits = noise(2, 6, 2)
    labels = {"start_positions": torch.tensor([1, 6]), "end_positions": torch.tensor([4, 6])}
    nats = -logits.log_softmax(1)
    kind = QuestionAnswering()
    expected = torch.stack([nats[0, 1, 0] + nats[0, 4, 1], torch.zeros(()).double()])
    close(kind.loss(logits, labels, None), expected)
    pair = SimpleNamespace(start_logits=logits[..., 0], end_logits=logits[..., 1])
    close(kind.loss(pair, torch.tensor([[1, 4], [6, 6]]), None), expected)
    assert kind.quality(pair, labels, None)[1].isnan()


def test_the_likeliest_span_never_ends_before_it_begins():
    start = torch.tensor([[0.0, 0, 0, 9, 0, 0]])
    end = torch.tensor([[0.0, 8, 0, 0, 3, 0]])
    found = QuestionAnswering().quality((start, end), torch.tensor([[3, 5]]), None)
    close(found, numbers([4 / 5]))  # 3..4 of 3..5
    exact = QuestionAnswering(metric="exact_match")
    assert exact.quality((start, end), torch.tensor([[3, 4]]), None) == 1
    assert (
        QuestionAnswering(longest=1, metric="exact_match").quality(
            (start, end), torch.tensor([[3, 3]]), None
        )
        == 1
    )


def test_questions_without_both_ends_are_refused():
    with pytest.raises(ValueError, match="start_positions and end_positions"):
        QuestionAnswering().loss(noise(2, 6, 2), torch.tensor([1, 2]), None)
    with pytest.raises(ValueError, match=r"start and end logits \[N, T\]"):
        QuestionAnswering().loss(noise(2, 6), torch.tensor([[1, 2], [1, 2]]), None)


# reinforcement learning


def test_the_policys_loss_is_weighted_by_the_advantage():
    output, batch = example("reinforcement_learning")
    kind = ReinforcementLearning()
    nats = -output.log_softmax(-1).gather(1, batch["actions"][:, None])[:, 0]
    close(kind.loss(output, kind.labels(batch), batch), nats * batch["advantages"])
    assert kind.inputs(batch).args[0] is batch["observations"]
    assert kind.inputs(batch).kwargs == {}


def test_an_unchanged_policy_has_no_divergence():
    output, batch = example("reinforcement_learning")
    kind = ReinforcementLearning(objective="kl")
    same = kind.loss(output, kind.labels(batch), {**batch, "old_logits": output + 7})
    close(same, torch.zeros(3).double())
    certain = torch.tensor([[50.0, -50.0]]).expand(3, 2).double()
    moved = kind.loss(output, kind.labels(batch), {**batch, "old_logits": certain})
    close(moved, -output.log_softmax(-1)[:, 0])
    with pytest.raises(ValueError, match=r"old_logits of shape \[3, 2\]"):
        kind.loss(output, kind.labels(batch), batch)


def test_the_temporal_difference_uses_recorded_values():
    values = numbers([[1.0, 2.0], [3.0, 4.0]])
    batch = {
        "observations": noise(2, 4),
        "actions": torch.tensor([1, 0]),
        "rewards": numbers([1.0, 1.0]),
        "next_values": numbers([10.0, 10.0]),
        "dones": torch.tensor([False, True]),
    }
    kind = ReinforcementLearning(objective="td", discount=0.5)
    losses = kind.loss(values, kind.labels(batch), batch)
    close(losses, numbers([(6 - 2) ** 2 / 2, (1 - 3) ** 2 / 2]))
    assert not kind.can_sample
    with pytest.raises(ValueError, match="targets, or rewards"):
        kind.loss(values, kind.labels(batch), {"actions": batch["actions"]})
    with pytest.raises(NotImplementedError):
        kind.sample(values, batch, torch.Generator())


# a task inside an analysis


class MeanLoss(Task):
    name = "mean"

    def loss(self, output, labels, batch):
        return nn.functional.cross_entropy(output, labels)[None]


def test_a_mean_in_the_shape_of_a_vector_is_no_loss_per_sample():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    batch = (torch.randn(8, 2), torch.zeros(8).long())
    subject = Subject(net, discover(net, batch), MeanLoss(), [batch])
    with preserved(net, gradients=True), pytest.raises(ValueError, match="8 samples, got 1"):
        subject.losses(subject.forward(batch), batch)


def _studied(batches, kind, width=2):
    net = nn.Sequential(nn.Linear(width, width), nn.Linear(width, 3)).double()
    return Subject(net, discover(net, batches[0]), kind, batches)


def test_samples_without_a_label_count_nowhere():
    x, labels = noise(4, 2), torch.tensor([1, -100, 0, -100])
    subject = _studied([(x[:2], labels[1::2]), (x, labels), (x[:0], labels[:0])], Classification())
    ((kept, known),) = subject.batches()
    close(kept, x[[0, 2]])
    assert known.tolist() == [1, 0]


@pytest.mark.parametrize(
    "kind, labels",
    [
        (Translation(), torch.tensor([[1, -100], [-100, -100]])),
        (Translation(pad=0), torch.tensor([[0, 1], [0, -100]])),
        (Generation(), torch.tensor([[1, 2], [2, -100]])),
        (Segmentation(ignored=255), torch.tensor([[255, 1], [255, 255]])),
    ],
)
def test_who_has_something_to_answer(kind, labels):
    assert kind.answered({"x": noise(2, 2), "labels": labels}).tolist() == [True, False]


@pytest.mark.parametrize(
    "labels, known",
    [
        ([[1, 2], [-100, -100], [-100, 1]], [True, False, True]),
        ([[1, 2], [-1, -1], [7, 9]], [True, False, False]),  # the text has three tokens
    ],
)
@pytest.mark.parametrize("mapping", [True, False])
def test_questions_without_an_answer_in_the_text_count_nowhere(labels, known, mapping):
    start, end = torch.tensor(labels).unbind(1)
    batch = {"input_ids": torch.ones(3, 3).long(), "start_positions": start, "end_positions": end}
    if not mapping:
        batch = torch.ones(3, 3).long(), torch.tensor(labels)
        known = known if labels[2][0] < 0 else [True, False, True]  # nobody says how long it is
    assert QuestionAnswering().answered(batch).tolist() == known


def test_data_without_any_label_is_refused():
    with pytest.raises(ValueError, match="something to answer, got 1 without any"):
        _studied([(noise(2, 2), torch.tensor([-100, -100]))], Classification())


def test_segments_numbered_in_a_mask_are_all_real():
    mask = Classification().mask({"attention_mask": torch.tensor([[1, 2, 0]])})
    assert mask.tolist() == [[True, True, False]]


def test_probabilities_as_labels_are_judged_in_single_precision():
    logits, labels = noise(2, 300), torch.full((2, 300), 1 / 300)
    half = logits.bfloat16()
    found = Classification().loss(half, labels, None)
    torch.testing.assert_close(found, Classification().loss(half.float(), labels, None))


def test_a_task_without_a_loss_says_what_is_missing():
    class Silent(Task):
        name = "silent"

    with pytest.raises(NotImplementedError, match="task silent must say what the loss is"):
        Silent().loss(None, None, None)
