"""Parts of trained models: trained by seed, written with a record, read again, and asked for by techniques."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lvlm_atlas import load as load_atlas
from lvlm_atlas.atlas.records import CURVES, Records
from lvlm_atlas.atlas.root import data_root
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.lab.curves import curve
from lvlm_atlas.lab.curves.asking import first_request
from lvlm_atlas.lab.curves.cost import cost
from lvlm_atlas.lab.curves.curve import CurveAnswer, CurveJob, carry_out
from lvlm_atlas.lab.curves.record import missing
from lvlm_atlas.lab.curves.record import write as write_curve
from lvlm_atlas.lab.parts import questions, scorer
from lvlm_atlas.lab.parts.draft import SHARE
from lvlm_atlas.lab.parts.imitation import Imitation
from lvlm_atlas.lab.parts.part import equipment, known, lacking, write
from lvlm_atlas.lab.parts.prompt_head import PromptHead, behind_pictures, prefilled
from lvlm_atlas.lab.parts.selector import soft_selection
from lvlm_atlas.lab.parts.trainer import PartTrainer
from lvlm_atlas.lab.parts.trainings import TRAININGS, trainings
from lvlm_atlas.lab.parts.vision_encoders import pooled
from lvlm_atlas.lab.photographs.scene import scene
from lvlm_atlas.lab.tasks.task import TASKS
from lvlm_atlas.lab.tasks.vocabulary import token_ids
from lvlm_atlas.lab.training import interrupted, recipe
from lvlm_atlas.lab.training.batch import batch
from lvlm_atlas.lab.training.checkpoint import WEIGHTS, Checkpoint
from lvlm_atlas.lab.training.checkpoint import known as trained_models
from lvlm_atlas.lab.training.shapes import shapes, smaller
from lvlm_atlas.reference.drafting.blocks import BlockDrafter
from lvlm_atlas.reference.drafting.early_exit import EarlyExitDrafter
from lvlm_atlas.reference.drafting.feature_chain import FeatureChainDrafter
from lvlm_atlas.reference.drafting.rounds import Drafter
from lvlm_atlas.reference.drafting.tree import GrowingTreeDrafter
from lvlm_atlas.reference.lvlm.contexts import DecodeLoop
from lvlm_atlas.reference.lvlm.model import LVLM
from lvlm_atlas.reference.lvlm.weights import fill
from lvlm_atlas.reference.modules.kept import give, random_weights
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.decoding.eagle_3 import Eagle3
from lvlm_atlas.reference.techniques.decoding.fastvlm_self_speculative import FastVlmSelfSpeculative
from lvlm_atlas.reference.techniques.decoding.flash import Flash
from lvlm_atlas.reference.techniques.decoding.hivis import HiViS
from lvlm_atlas.reference.techniques.decoding.massv import Massv
from lvlm_atlas.reference.techniques.decoding.msd import Msd
from lvlm_atlas.reference.techniques.decoding.multi_token_prediction import MultiTokenPrediction
from lvlm_atlas.reference.techniques.decoding.speculative_sampling import SpeculativeSampling
from lvlm_atlas.reference.techniques.decoding.specvlm_huang import BRANCHES, ElasticHead, SpecVlmHuang
from lvlm_atlas.reference.techniques.decoding.tree_verification import TreeVerification
from lvlm_atlas.reference.techniques.decoding.vispec import ViSpec
from lvlm_atlas.reference.techniques.encoding.keyvideollm import KeyVideoLLM
from lvlm_atlas.reference.techniques.encoding.llava_prumerge import LlavaPruMerge
from lvlm_atlas.reference.techniques.encoding.tosa import ToSA
from lvlm_atlas.reference.techniques.encoding.trim import Trim
from lvlm_atlas.reference.techniques.prefilling.visionselector import VisionSelector

ROOT = data_root()
TRAINED = ("pretrain", "finetune")
STEPS = 2
every_kind = pytest.mark.parametrize("name", TRAININGS)
USED_BY: dict[str, Any] = {
    "frame-scorer": KeyVideoLLM(max_frames=2),
    "patch-scorer": Trim(),
    "selector": VisionSelector(),
    "depth-head": ToSA(),
    "last-layer": LlavaPruMerge(),
    "draft": SpeculativeSampling(),
    "feature-head": TreeVerification(),
    "decoupled-head": Msd(),
    "seeing-drafter": Massv(),
    "multi-token-module": MultiTokenPrediction(),
    "stepped-head": HiViS(),
    "fused-head": Eagle3(),
    "vision-aware-head": ViSpec(),
    "block-head": Flash(),
    "elastic-head": SpecVlmHuang(),
    "early-exit": FastVlmSelfSpeculative(exit_layer=2),
    **{name: each.technique for name, each in TRAININGS.items() if isinstance(each, Imitation)},
}
"""A technique that asks for each part."""

pytestmark = pytest.mark.usefixtures("noise")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings of a few small steps."""
    monkeypatch.setattr(recipe, "FRAMES", 8)
    monkeypatch.setattr(scorer, "PICTURES", (("still", 2), ("needle", 1)))
    monkeypatch.setattr(scorer, "TOWER", replace(scorer.TOWER, hidden_size=16, num_hidden_layers=1))
    monkeypatch.setattr(Imitation, "pictures", 8)
    monkeypatch.setattr(PromptHead, "pictures", 8)
    monkeypatch.setattr(interrupted, "SAVE_EVERY", 1)
    for training in TRAININGS.values():
        monkeypatch.setattr(training, "steps", STEPS)


def a_model(seed: int = 0) -> LVLM:
    narrow = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 4}
    config = smaller(shapes()["llava"], narrow, narrow | {"hidden_size": 32})
    return fill(LVLM.empty(config), seed=seed, dtype=torch.float32, device="cpu")


def a_checkpoint() -> Checkpoint:
    return Checkpoint(
        id="lab-x", dialect="llava", seed=0, parameters=1, steps=1, pictures=1, sha256="a" * 64, data="", licences={},
        samples=1, vision_tokens=144, layers=2, accuracy={}, blind={}, downsampled={},
    )  # fmt: skip


def trained(name: str, model: LVLM, kept: Path) -> tuple[torch.nn.Module, list[float]]:
    trainer = PartTrainer(TRAININGS[name], model, 3, kept)
    losses = [*trainer.run()]
    return trainer.trainable.part, losses


@every_kind
def test_a_part_is_the_same_for_a_seed_and_is_read_as_it_was_written(name: str, tmp_path: Path) -> None:
    model, training, checkpoint = a_model(), TRAININGS[name], a_checkpoint()
    begun = {key: weight.clone() for key, weight in training.trainable(model, 3).part.state_dict().items()}
    part, losses = trained(name, model, tmp_path / "whole.pt")
    first = next(PartTrainer(training, model, 3, tmp_path / "begun.pt").run())  # and interrupted then
    again, rest = trained(name, model, tmp_path / "begun.pt")
    assert losses == [first, *rest]
    assert len(losses) == STEPS
    assert any(not torch.equal(begun[key], weight) for key, weight in part.state_dict().items())
    assert all(map(torch.equal, part.state_dict().values(), again.state_dict().values()))
    held_back = dict(training.judged(model, part, 1))
    folder = write(tmp_path, checkpoint, name, part, {"seed": 3, "samples": 1, "held_back": held_back})
    (record,) = known(tmp_path, checkpoint).values()
    assert lacking(tmp_path, checkpoint, TRAININGS) == [each for each in TRAININGS if each != name]
    assert record.held_back == held_back
    read = training.read(folder, model)
    for (key_1, one), (key_2, other) in zip(part.named_parameters(), read.named_parameters(), strict=True):
        assert key_1 == key_2
        assert torch.allclose(one, other, atol=1e-2)


@every_kind
def test_a_technique_takes_the_part_that_its_model_is_equipped_with(name: str, tmp_path: Path) -> None:
    model, checkpoint = a_model(), a_checkpoint()
    request = first_request(model, TASKS["burst"].sample(0))
    folder = write(tmp_path, checkpoint, name, TRAININGS[name].trainable(model, 3).part,
                   {"seed": 3, "samples": 1, "held_back": {}})  # fmt: skip
    gear = equipment(tmp_path, checkpoint, model)
    subject = gear.model_for(USED_BY[name].needs)
    gear.equip(subject)
    assert bool(gear.used(subject)) == (subject is not model)
    subject.run(request, USED_BY[name])
    assert [part.id for part in gear.used(subject)] == [folder.name]
    assert not random_weights(subject)


def test_a_model_with_a_last_layer_says_what_it_said_and_lets_it_be_looked_at() -> None:
    model, training = a_model(), TRAININGS["last-layer"]
    taller = training.grown(model, training.trainable(model, 3).part)
    for task in TASKS.values():
        request = first_request(model, task.sample(0))
        ours, theirs = taller.run(request), model.run(request)
        assert torch.equal(ours.tokens_N, theirs.tokens_N)
        assert cost(ours.trace) == cost(theirs.trace)
    with pytest.raises(Refusal, match="reads what its encoder's last layer gives"):
        model.run(request, LlavaPruMerge())
    assert len(taller.run(request, LlavaPruMerge()).tokens_N)


@pytest.mark.parametrize("name", [name for name, each in TRAININGS.items() if isinstance(each, PromptHead)])
def test_a_head_is_trained_on_what_it_gives_when_it_drafts(name: str) -> None:
    model, training, sample = a_model(), TRAININGS[name], TASKS["caption"].sample(0)
    assert isinstance(training, PromptHead)
    part = training.trainable(model, 3).part
    torch.manual_seed(0)
    for weight in part.parameters():  # what begins as zero is seen too
        weight.data.add_(0.1 * torch.randn_like(weight))
    if isinstance(part, ElasticHead):  # which branch is chosen depends on how much of the answer was read
        part.gate.bias.data[BRANCHES.index("resample")] = 1e3
    give(model, training.key(), part)
    (turn,) = sample.turns
    answer = token_ids(*turn.answer)
    read = prefilled(model, batch([sample], model.config))
    at = behind_pictures(read) - len(answer) - 1  # of the answer's first token, behind the pictures
    with torch.no_grad():
        trained = [
            training.logits(model, part, each[-behind_pictures(read) :])
            for each in training.drafts(model, part, read)
        ]  # fmt: skip
        run = model.begin(first_request(model, sample), [USED_BY[name]])
        speculation = USED_BY[name].begin_decoding(DecodeLoop(run, model.prefill(model.prepare(run), run)))
        drafted = [*_drafted(speculation.drafter, answer[: len(trained)], lambda x: training.logits(model, part, x))]
    for step, logits_C in enumerate(drafted):
        assert torch.allclose(logits_C, trained[step][at + step], atol=1e-4), step


def _drafted(drafter: Drafter, answer: list[int], logits: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
    """What a drafter says after the first token of an answer, and after each further one that it is given as its own
    guess.
    """
    if isinstance(drafter, EarlyExitDrafter):
        first = torch.tensor(answer[:1])
        yield logits(drafter.imitate(drafter.target.hidden_states(first, drafter.cache, until=drafter.layers)[-1]))[0]
    elif isinstance(drafter, BlockDrafter):
        yield from logits(drafter.draft.read(answer[:1]))
    else:
        assert isinstance(drafter, GrowingTreeDrafter | FeatureChainDrafter)
        yield drafter.draft.read(answer[:1])
        for token in answer[1:]:
            yield drafter.draft.guess(torch.tensor([token]))[0]


def test_a_soft_selection_sums_to_the_count_and_sharpens_to_the_best() -> None:
    score_BV = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
    for sharpness in (1.0, 10.0, 1000.0):
        selected_BV = soft_selection(score_BV, 10, sharpness)
        assert torch.allclose(selected_BV.sum(1), torch.full((3,), 10.0), atol=1e-2)
    best_BV = torch.zeros_like(score_BV).scatter(1, score_BV.topk(10).indices, 1.0)
    assert torch.allclose(selected_BV, best_BV, atol=1e-2)


def test_an_encoder_aims_at_the_mean_of_the_patches_that_its_own_cover() -> None:
    square_RCD = torch.arange(16.0).reshape(4, 4, 1)
    aim_FPD = pooled(square_RCD.flatten(0, 1)[None], 4)
    assert aim_FPD.flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert torch.equal(pooled(square_RCD.flatten(0, 1)[None], 16), square_RCD.flatten(0, 1)[None])


def test_imitations_are_of_techniques_whose_entries_want_training() -> None:
    wanting = {each.reference for each in load_atlas(ROOT).atlas.techniques.values() if each.training in TRAINED}
    assert {each.reference for each in TRAININGS.values() if isinstance(each, Imitation)} <= wanting


def test_of_a_part_that_one_setting_asks_for_that_setting_is_known(tmp_path: Path) -> None:
    model, checkpoint = a_model(), a_checkpoint()
    for name in ("c-abstractor", "draft"):
        write(tmp_path, checkpoint, name, TRAININGS[name].trainable(model, 0).part,
              {"seed": 0, "samples": 1, "held_back": {}})  # fmt: skip
    gear = equipment(tmp_path, checkpoint, model)
    assert gear.settings("lvlm_atlas.reference.techniques.encoding.honeybee:Honeybee") == [
        {"queries": 36, "depth": 2, "width": 64}
    ]
    assert gear.settings("lvlm_atlas.reference.techniques.decoding.spec_llava:SpecLlava") == []


def test_a_part_of_other_weights_is_refused_and_says_how_to_train_it_anew(tmp_path: Path) -> None:
    model, checkpoint = a_model(), a_checkpoint()
    write(tmp_path, checkpoint, "depth-head", TRAININGS["depth-head"].trainable(model, 0).part,
          {"seed": 0, "samples": 1, "held_back": {}})  # fmt: skip
    other = checkpoint.model_copy(update={"sha256": "b" * 64})
    with pytest.raises(AtlasError, match="lab train llava --seed 0 --part depth-head"):
        known(tmp_path, other)
    assert lacking(tmp_path, other, ["depth-head"]) == ["depth-head"]
    assert not lacking(tmp_path, checkpoint, ["depth-head"])


def test_a_changed_part_is_refused(tmp_path: Path) -> None:
    model, checkpoint = a_model(), a_checkpoint()
    folder = write(tmp_path, checkpoint, "depth-head", TRAININGS["depth-head"].trainable(model, 0).part,
                   {"seed": 0, "samples": 1, "held_back": {}})  # fmt: skip
    (folder / WEIGHTS).write_bytes(b"changed")
    with pytest.raises(AtlasError, match="train it anew"):
        equipment(tmp_path, checkpoint, model)


@pytest.mark.parametrize("dialect", shapes())
def test_the_draft_has_at_most_a_quarter_of_the_models_numbers(dialect: str) -> None:
    config = shapes()[dialect]
    draft, model = (
        sum(weight.numel() for weight in each.parameters())
        for each in (TRAININGS["draft"].empty(config), LVLM.empty(config))
    )
    assert draft <= SHARE * model
    assert "draft" in trainings(config)


def test_a_question_on_a_frame_asks_for_what_it_shows_and_others_need_not() -> None:
    random = np.random.default_rng(0)
    pictures = [scene(random, training=True) for _ in range(20)]
    asked = [questions.on(random, each) for each in pictures]
    for picture, question in zip(pictures, asked, strict=True):
        assert question is not None
        assert questions.shows(picture, question)
        bare = replace(picture, things=(), label="", bars=())
        assert not questions.shows(bare, question)
        assert questions.on(random, bare) is None


def test_the_prompt_of_a_question_is_what_scorers_are_shown_of_a_sample() -> None:
    model = a_model()
    for task in TASKS.values():
        sample = task.sample(0)
        shown = first_request(model, sample).text_N.tolist()
        assert shown == token_ids(*questions.prompt_of(len(sample.frames), sample.turns[0].question))


def test_a_curve_lacks_models_whose_parts_were_trained_anew_and_those_it_did_not_run_on(tmp_path: Path) -> None:
    model, checkpoint, training = a_model(), a_checkpoint(), TRAININGS["depth-head"]
    write(
        tmp_path,
        checkpoint,
        "depth-head",
        training.trainable(model, 0).part,
        {"seed": 0, "samples": 1, "held_back": {}},
    )
    parts = {checkpoint.id: known(tmp_path, checkpoint), "lab-y": {}}
    (part,) = parts[checkpoint.id].values()
    hashes = {checkpoint.id: checkpoint.sha256, "lab-y": "c" * 64}
    answer = CurveAnswer(technique="tosa", main_cost="vision_tokens", checkpoints=(checkpoint.id,),
                         parts={part.id: part.sha256})  # fmt: skip
    write_curve(tmp_path, answer, 1, hashes, "cpu")
    curve = Records(tmp_path, CURVES)["tosa"]
    assert missing(curve, 1, hashes, parts) == ("lab-y",)
    other = curve.model_copy(update={"parts": {part.id: "d" * 64}})
    assert missing(other, 1, hashes, parts) == (checkpoint.id, "lab-y")


def test_a_model_that_was_declined_is_asked_again_once_it_has_the_layer_that_others_needed(tmp_path: Path) -> None:
    model, training = a_model(), TRAININGS["last-layer"]
    checkpoint = a_checkpoint()
    other = checkpoint.model_copy(update={"id": "lab-y"})
    for each in (checkpoint, other):
        write(tmp_path, each, "last-layer", training.trainable(model, 0).part,
              {"seed": 0, "samples": 1, "held_back": {}})  # fmt: skip
    parts = {each.id: known(tmp_path, each) for each in (checkpoint, other)}
    hashes = {each.id: each.sha256 for each in (checkpoint, other)}
    (part,) = parts[checkpoint.id].values()
    answer = CurveAnswer(technique="llava-prumerge", main_cost="vision_tokens", checkpoints=(checkpoint.id,),
                         parts={part.id: part.sha256}, declined={other.id: "needs a layer"})  # fmt: skip
    write_curve(tmp_path, answer, 1, hashes, "cpu")
    curve = Records(tmp_path, CURVES)["llava-prumerge"]
    assert not missing(curve, 1, hashes, {checkpoint.id: parts[checkpoint.id], other.id: {}})
    assert missing(curve, 1, hashes, parts) == (other.id,)


def test_a_curve_holds_the_settings_alone_whose_weights_are_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkpoint, *_), name = trained_models(ROOT).values(), "shuffle-projector"
    model = curve.model_of(str(ROOT), checkpoint.id, "cpu")
    write(tmp_path, checkpoint, name, TRAININGS[name].trainable(model, 0).part,
          {"seed": 0, "samples": 1, "held_back": {}})  # fmt: skip
    gear = equipment(tmp_path, checkpoint, model)
    job = CurveJob(technique=load_atlas(ROOT).technique("pixel-shuffle"), root=str(ROOT), checkpoints=(checkpoint.id,),
                   samples=1, tasks=("where",), device="cpu")  # fmt: skip
    with monkeypatch.context() as patched:
        patched.setattr(curve, "equipment_of", lambda *_: gear)
        answer = carry_out(job)
    assert answer.checkpoints == (checkpoint.id,)
    assert [*answer.parts] == [f"{checkpoint.id}-{name}"]
    assert {point.setting.get("factor", 2) for each in answer.tasks for point in each.points} == {2}
