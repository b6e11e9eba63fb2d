"""Relaxed choices: at their limits what the techniques choose, and gradients reach the modules that choose."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from lvlm_atlas.lab.curves.asking import first_request
from lvlm_atlas.lab.parts.connectors import ConnectorTraining, UniformViCO
from lvlm_atlas.lab.parts.draft import drawn_samples
from lvlm_atlas.lab.parts.imitation import Imitating, Imitation
from lvlm_atlas.lab.parts.relaxations import (
    ATP_SHARE,
    ATP_WEIGHT,
    DYNAMIC_WEIGHT,
    BlendingFramePrompter,
    FadingDynamicLlava,
    FadingModules,
    faded,
)
from lvlm_atlas.lab.parts.trainings import TRAININGS
from lvlm_atlas.lab.parts.vision_encoders import pooled
from lvlm_atlas.lab.tasks.task import TASKS, training_sample
from lvlm_atlas.lab.training import recipe
from lvlm_atlas.lab.training.batch import batch
from lvlm_atlas.lab.training.reading import encoded
from lvlm_atlas.lab.training.shapes import shapes, smaller
from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm import LVLM, Technique
from lvlm_atlas.reference.lvlm.contexts import LlmLayer
from lvlm_atlas.reference.lvlm.weights import fill
from lvlm_atlas.reference.modules.kept import brought
from lvlm_atlas.reference.techniques.encoding.vila_frame_prompter import ViLAFramePrompter
from lvlm_atlas.reference.techniques.prefilling.atp_llava import AtpLlava

pytestmark = pytest.mark.usefixtures("noise")

RELAXED = [name for name, each in TRAININGS.items() if isinstance(each, Imitation) and each.relaxed]


@pytest.fixture
def model() -> LVLM:
    narrow = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 4}
    config = smaller(shapes()["llava"], narrow, narrow | {"hidden_size": 32})
    return fill(LVLM.empty(config), seed=0, dtype=torch.float32, device="cpu")


def logits(model: LVLM, task: str, *stack: Technique) -> Tensor:
    """What the model says behind a prompt (C,)."""
    run = model.begin(first_request(model, TASKS[task].sample(0)), stack)
    return model.prefill(model.prepare(run), run).logits_BC[0]


@dataclass(frozen=True)
class EveryThird(Technique):
    """From layer 1 on, one vision token of three, or all of them, the others faded."""

    fade: bool

    acts_at = ("llm-layer",)

    def llm_layer(self, at: LlmLayer) -> Sequence:
        if at.layer != 1:
            return at.sequence
        place_BV = at.sequence.vision_places()
        if self.fade:
            return faded(at.sequence, (torch.arange(place_BV.shape[1]) % 3 == 0).float().expand_as(place_BV))
        return at.sequence.keep_vision(torch.arange(0, place_BV.shape[1], 3)[None])


@pytest.mark.parametrize("task", ["where", "burst"])
def test_a_token_that_has_faded_wholly_is_as_good_as_gone(model: LVLM, task: str) -> None:
    gone, all_ = logits(model, task, EveryThird(fade=False)), logits(model, task)
    assert torch.allclose(logits(model, task, EveryThird(fade=True)), gone, atol=1e-3)
    assert not torch.allclose(gone, all_, atol=1e-2)


def test_masks_that_let_all_pass_change_nothing(model: LVLM) -> None:
    run = model.begin(first_request(model, TASKS["where"].sample(0)))
    entered = model.prepare(run)
    place_BV = entered.vision_places()
    again = faded(entered, torch.ones(place_BV.shape))
    assert again.bias_BN is not None
    assert not again.bias_BN.any()
    twice = faded(faded(entered, torch.full(place_BV.shape, 0.5)), torch.full(place_BV.shape, 0.25))
    assert torch.allclose(twice.bias_BN[entered.vision_BN], torch.tensor(0.125).log())  # type: ignore[index]


@pytest.mark.parametrize("seed", range(3))
def test_blended_frames_are_those_that_the_prompter_picks(model: LVLM, seed: int) -> None:
    request = replace(first_request(model, TASKS["burst"].sample(0)), seed=seed)
    run, blended = (
        model.begin(request, [technique(segments=3)]) for technique in (ViLAFramePrompter, BlendingFramePrompter)
    )
    one, other = (model.prefill(model.prepare(each), each).logits_BC for each in (run, blended))
    assert torch.allclose(one, other, atol=1e-5)


def test_a_penalty_is_nothing_where_as_much_is_left_as_shall_be() -> None:
    left = [torch.tensor([[1.0, 0.2]]), torch.tensor([[0.0, 0.0]])]
    assert float(FadingModules(AtpLlava(), {}, left).penalty) == pytest.approx(0, abs=1e-9)
    left = [torch.ones(1, 2), torch.ones(1, 2)]
    assert float(FadingModules(AtpLlava(), {}, left).penalty) == pytest.approx(ATP_WEIGHT * (1 - ATP_SHARE) ** 2)


def test_a_predictor_is_held_to_the_share_of_its_setting(model: LVLM) -> None:
    for share in (0.0, 1.0):
        technique = FadingDynamicLlava(sparse_layer=1, vision_keep_rate=share, output_text_predictor=False, width=16)
        run = model.begin(first_request(model, TASKS["where"].sample(0)), [technique])
        model.prefill(model.prepare(run), run)
        (acting,) = run.acts.at("llm-layer")
        kept = float((acting.penalty / DYNAMIC_WEIGHT).sqrt())  # as far from the share as this
        assert 0 < kept < 1
        assert kept * 144 == pytest.approx(round(kept * 144), abs=1e-3)  # whole tokens


@pytest.mark.parametrize("name", RELAXED)
def test_gradients_reach_what_chooses(model: LVLM, name: str) -> None:
    training = TRAININGS[name]
    assert isinstance(training, Imitation)
    trainable = training.trainable(model, 0)
    (kind, *_) = training.kinds
    sample = training_sample(np.random.default_rng(0), kind, recipe.WORDS)
    loss = training.loss(model, [sample], seed=0)
    loss.backward()
    gradients = [weight.grad for weight in trainable.part.parameters()]
    assert all(each is not None and each.isfinite().all() for each in gradients)
    assert sum(bool(each.any()) for each in gradients if each is not None) > len(gradients) / 2
    # Its modules are the technique's own, under the same keys.
    assert not brought(model)
    assert issubclass(pkgutil.resolve_name(str(training.relaxed)), pkgutil.resolve_name(training.reference))


def test_an_encoder_learns_features_first_and_the_share_of_their_variance_that_it_misses_is_its_loss(
    model: LVLM,
) -> None:
    training = TRAININGS["convnext-encoder"]
    trainable = training.trainable(model, 0)
    for weight in trainable.part.parameters():
        weight.data.zero_()  # so that it gives zeros
    samples = drawn_samples(np.random.default_rng(0), training.pictures)
    own_FND = encoded(model, batch(samples, model.config).frames_F3HW).feature_TPD
    assert len(own_FND) == training.pictures
    aim_FPD = pooled(own_FND, 36)
    first = trainable(model, np.random.default_rng(0))
    assert float(first.detach()) == pytest.approx(float(aim_FPD.square().mean() / aim_FPD.var()), rel=1e-4)
    trainable.done = 1.0
    assert float(trainable(model, np.random.default_rng(0)).detach()) != pytest.approx(float(first.detach()), rel=1e-2)


def test_connectors_are_trained_on_many_tokens_and_on_few_and_the_router_on_both(model: LVLM) -> None:
    training = TRAININGS["connectors"]
    assert isinstance(training, ConnectorTraining)
    trainable = training.trainable(model, 0)
    assert isinstance(trainable, Imitating)
    trainable(model, np.random.default_rng(0)).backward()
    for name, weight in trainable.part.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all()
    for compress, tokens in ((False, 144), (True, 36)):
        technique = UniformViCO(**training.at, compress=compress)  # type: ignore[arg-type]
        run = model.begin(first_request(model, TASKS["where"].sample(0)), [technique])
        assert int(model.prepare(run).vision_BN.sum()) == tokens
