"""The labeller on a processor against timm's network: answers, precision, classes that do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.model.classes import load_classes
from pipeline.model.inception_v4 import InceptionV4
from pipeline.runners.checks import check_classes
from pipeline.runners.folded import FoldedConv, fold_batch_norms, top_k
from pipeline.runners.labeller import Labeller
from tests.support.timm_network import NUM_CLASSES, ask, relative_error, timms_answers


def logits(state: dict[str, Tensor], embedding: np.ndarray) -> Tensor:
    return nn.functional.linear(torch.from_numpy(embedding), state["last_linear.weight"], state["last_linear.bias"])


RUNNERS = pytest.mark.parametrize("runner", ["plain", "fast"])  # torch and OpenVINO


@RUNNERS
def test_fp32_says_what_timm_says(state: dict[str, Tensor], image_NHWC: np.ndarray,
                                  expected: tuple[Tensor, Tensor], runner: str) -> None:
    embedding_ND, logits_NC = expected
    answers = ask(Labeller(state, "cpu", "fp32", runner=runner), image_NHWC)
    assert [(a.dtype.name, a.shape) for a in answers] == [
        ("int16", (6, 5)), ("float32", (6, 5)), ("float32", (6, 1536))]
    assert relative_error(torch.from_numpy(answers.embedding), embedding_ND).max() < 1e-5
    assert relative_error(logits(state, answers.embedding), logits_NC).max() < 1e-4
    prob, label_id = logits_NC.softmax(1).topk(5)
    np.testing.assert_array_equal(answers.label_id, label_id)
    np.testing.assert_allclose(answers.prob, prob, rtol=1e-3)


@RUNNERS
def test_bf16_is_nearer_to_fp32_than_timms_autocast(
        state: dict[str, Tensor], theirs: Any, image_NHWC: np.ndarray, expected: tuple[Tensor, Tensor],
        runner: str) -> None:
    embedding_ND, logits_NC = expected
    answers = ask(Labeller(state, "cpu", "bf16", runner=runner), image_NHWC)
    assert nn.functional.cosine_similarity(torch.from_numpy(answers.embedding), embedding_ND).min() >= 0.9999
    with torch.autocast("cpu", torch.bfloat16):
        _, autocast_NC = timms_answers(theirs, image_NHWC)
    ours = relative_error(logits(state, answers.embedding), logits_NC).median()
    assert ours <= 0.8 * relative_error(autocast_NC, logits_NC).median()


def test_an_image_does_not_depend_on_its_batch(state: dict[str, Tensor], image_NHWC: np.ndarray) -> None:
    labeller = Labeller(state, "cpu", "fp32", num_threads=torch.get_num_threads(), runner="plain")
    whole, alone = ask(labeller, image_NHWC[:3]), ask(labeller, image_NHWC[1:2])
    np.testing.assert_allclose(alone.embedding[0], whole.embedding[1], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(alone.label_id[0], whole.label_id[1])
    assert labeller(image_NHWC[:0]).shape == (0, 10 + 1536)


def test_folding_leaves_no_batch_norm_and_the_state_as_it_was(state: dict[str, Tensor]) -> None:
    before = state["features.0.conv.weight"].clone()
    labeller = Labeller(state, "cpu", "bf16", runner="plain")
    layers = list(labeller.run.network.modules())
    assert sum(isinstance(layer, FoldedConv) for layer in layers) == 149
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in layers)
    assert {p.dtype for p in labeller.run.network.features.parameters()} == {torch.bfloat16}
    assert labeller.run.network.last_linear.weight.dtype == torch.float32
    assert torch.equal(state["features.0.conv.weight"], before)


def test_fewer_than_five_classes(state: dict[str, Tensor], image_NHWC: np.ndarray) -> None:
    three = state | {name: state[name][:3] for name in ("last_linear.weight", "last_linear.bias")}
    answers = ask(Labeller(three, "cpu", "fp32", runner="plain"), image_NHWC[:1])
    assert sorted(answers.label_id[0]) == [0, 1, 2] and answers.prob.sum() == pytest.approx(1, abs=1e-5)


def test_an_image_without_a_finite_answer_is_a_row(state: dict[str, Tensor], image_NHWC: np.ndarray) -> None:
    huge = state | {"last_linear.weight": torch.full((NUM_CLASSES, 1536), 1e38)}
    answer_NK = Labeller(huge, "cpu", "fp32", runner="plain")(image_NHWC[:1])
    assert answer_NK.shape == (1, 10 + 1536) and answer_NK.dtype == np.float32 and not np.isfinite(answer_NK).all()


def test_torch_is_the_plain_runner_of_a_processor(state: dict[str, Tensor]) -> None:
    labeller = Labeller(state, "cpu", "fp32", num_threads=2, runner="plain")
    assert (labeller.runner, labeller.runner_note, labeller.num_top, labeller.precision) == ("cpu", "", 5, "fp32")
    assert labeller.slots_for(7) == 7 and labeller.batch_size == 8


@pytest.mark.parametrize("images", [
    np.zeros((1, 299, 299, 3), np.float32), np.zeros((1, 3, 299, 299), np.uint8), np.zeros((299, 299, 3), np.uint8)])
def test_other_shapes_and_types_are_refused(state: dict[str, Tensor], images: np.ndarray) -> None:
    labeller = Labeller.__new__(Labeller)  # the check comes before the network
    with pytest.raises(ValueError, match="not uint8"):
        labeller(images)


def test_classes_must_be_as_many_as_outputs(state: dict[str, Tensor]) -> None:
    with pytest.raises(UserError, match="--classes names 1000 classes and --weights has 20"):
        check_classes(len(state["last_linear.weight"]), load_classes())
    check_classes(len(state["last_linear.weight"]), load_classes().slice(0, NUM_CLASSES))


def test_the_folded_network_is_the_network(state: dict[str, Tensor]) -> None:
    plain, folded = InceptionV4(NUM_CLASSES).eval(), InceptionV4(NUM_CLASSES).eval()
    plain.load_state_dict(state)
    folded.load_state_dict(state)
    fold_batch_norms(folded, torch.float32)
    pixels_NCHW = torch.randint(0, 256, (1, 3, 107, 107)).float()
    pixels_NCHW = pixels_NCHW.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        torch.testing.assert_close(folded(pixels_NCHW - 127.5)[1], plain(pixels_NCHW / 127.5 - 1)[1],
                                   rtol=1e-4, atol=1e-4)


def test_of_equal_probabilities_the_first_class_comes_first(state: dict[str, Tensor], image_NHWC: np.ndarray) -> None:
    """All equal; and three classes that share the last two places."""
    even = state | {"last_linear.weight": torch.zeros(1000, 1536), "last_linear.bias": torch.zeros(1000)}
    assert (ask(Labeller(even, "cpu", "fp32", runner="plain"), image_NHWC[:2]).label_id == [0, 1, 2, 3, 4]).all()
    bias = torch.zeros(1000)
    bias[[900, 17, 400]], bias[[999, 3, 500, 30]] = torch.tensor([3.0, 2.0, 2.0]), 1.0
    answers = ask(Labeller(even | {"last_linear.bias": bias}, "cpu", "fp32", runner="plain"), image_NHWC[:1])
    assert answers.label_id[0].tolist() == [900, 17, 400, 3, 30]


@pytest.mark.parametrize("num_classes", [5, 20, 1000, 2**15])
def test_the_best_are_those_of_topk_where_none_are_equal(num_classes: int) -> None:
    prob_NC = torch.stack([torch.randperm(num_classes).float() / num_classes**2 for _ in range(7)])
    prob_NK, place_NK = top_k(prob_NC, 5)
    expected = prob_NC.topk(5)
    assert torch.equal(prob_NK, expected.values) and torch.equal(place_NK, expected.indices)
    equal_NK = top_k(torch.zeros(3, num_classes), 5)[1]
    assert equal_NK.tolist() == 3 * [[0, 1, 2, 3, 4]]
    assert top_k(torch.full((1, num_classes), torch.nan), 5)[0].isnan().all()
