"""ICCTP."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm import LVLM, Refusal, random_request
from lvlm_atlas.reference.lvlm.contexts import EncoderOutput
from lvlm_atlas.reference.techniques.encoding.tome import ToMe
from lvlm_atlas.reference.techniques.prefilling.icctp import Icctp, clusters, icctp, quotas


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def directions(*degrees: float, device: str = "cpu") -> Tensor:
    """Unit vectors (N, 2) at these angles."""
    angle = torch.tensor(degrees, dtype=torch.float64, device=device).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


def test_each_token_goes_to_the_nearest_noun_by_angle(device: str) -> None:
    token = directions(10, 80, 44, 200, device=device)[None] * torch.tensor([[5.0], [0.1], [1], [2]], device=device)
    group, cosine = clusters(token, directions(0, 90, 0, device=device) * 3)
    assert group.tolist() == [[0, 1, 0, 1]]  # the third noun is the first again, 200° is 110° from 90° and 160° from 0°
    assert cosine[0, 1].item() == pytest.approx(0.9848, abs=1e-4)


def test_every_group_keeps_one_at_least(device: str) -> None:
    group = torch.tensor([[0, 0, 0, 0, 0, 1, 2, 2, 2]], device=device)
    counts = torch.ones_like(group, dtype=torch.bool)
    assert quotas(group, counts, 0.5, 4).tolist() == [[2, 1, 1, 1]]  # a noun that no token goes to has nothing to give
    # Eight tokens lie around the first noun and pay off best; the last one is alone at the second.
    token = torch.cat([directions(*range(8), device=device), directions(91, device=device)])[None]
    attention = torch.tensor([[9.0, 9, 9, 9, 9, 9, 9, 9, 1]], dtype=torch.float64, device=device)
    assert icctp(token, attention, directions(0, 90, device=device), 3, 0.0, 0.3).tolist() == [[0, 1, 8]]


def test_what_attention_has_chosen_fills_no_quota(device: str) -> None:
    token = directions(0, 1, 2, 88, 89, 90, device=device)[None]
    attention = torch.tensor([[9.0, 8, 1, 1, 1, 1]], dtype=torch.float64, device=device)
    kept = icctp(token, attention, directions(0, 90, device=device), 4, 0.5, 1.0)
    # 0 and 1 by attention; of the first noun's only token left, 2, and of the second's three the nearest.
    assert kept.tolist() == [[0, 1, 2, 5]]


def test_the_global_share_is_one_of_the_budget(device: str) -> None:
    token = directions(*range(0, 90, 9), device=device)[None]
    attention = torch.arange(10.0, dtype=torch.float64, device=device)[None]
    # ⌊0.5 · 5⌋ = 2 by attention, 9 and 8; with a share of all ten they would be all five.
    kept = icctp(token, attention, directions(0, device=device), 5, 0.5, 1.0)
    assert kept.tolist() == [[0, 1, 2, 8, 9]]


def test_attention_is_stretched_before_it_is_added(device: str) -> None:
    token = directions(0, 20, 25, device=device)[None]
    attention = torch.tensor([[0.001, 0.003, 0.002]], dtype=torch.float64, device=device)
    # 0.3 · 1 + 0 against 0.3 · 0.94 + 0.7: as it is, attention would not count and the first token would stay.
    assert icctp(token, attention, directions(0, device=device), 1, 0.0, 0.3).tolist() == [[1]]
    equal = torch.full_like(attention, 0.5)
    assert icctp(token, equal, directions(0, device=device), 1, 0.0, 0.3).tolist() == [[0]]


@settings(max_examples=40)
@given(st.integers(1, 14), st.integers(1, 5), st.integers(1, 16), st.floats(0, 1), st.floats(0, 1), st.integers(0, 999))
def test_equals_the_definition_in_plain_loops(
    patches: int, nouns: int, budget: int, global_share: float, alpha: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    token, centre = (torch.randn(n, 4, generator=generator, dtype=torch.float64) for n in (patches, nouns))
    attention = torch.rand(patches, generator=generator, dtype=torch.float64)
    kept = icctp(token[None], attention[None], centre, budget, global_share, alpha)[0].tolist()
    keep = min(budget, patches)
    seen = sorted(range(patches), key=lambda n: -float(attention[n]))[: int(global_share * keep)]
    rest = [n for n in range(patches) if n not in seen]
    cosine = torch.nn.functional.cosine_similarity(token[:, None], centre[None], dim=-1)
    span = float(attention.max() - attention.min())
    score = {
        n: alpha * float(cosine[n].max()) + (1 - alpha) * (float(attention[n] - attention.min()) / span if span else 0)
        for n in rest
    }
    share, within = (keep - len(seen)) / max(1, len(rest)), []
    for noun in range(nouns):
        members = sorted((n for n in rest if int(cosine[n].argmax()) == noun), key=lambda n: -score[n])
        within += members[: max(1, int(share * len(members)))]
    order = sorted(within, key=lambda n: -score[n]) + sorted({*rest} - {*within}, key=lambda n: -score[n])
    assert kept == sorted(seen + order[: keep - len(seen)])


def test_cosines_are_those_of_the_adapters_tokens(lvlm: LVLM) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, query = (torch.randn(*size, generator=generator).to(lvlm.device) for size in ((2, 31, 32), (2, 2, 31, 8)))
    probe = Probe(query, query, causal=False)
    run = lvlm.begin(random_request(lvlm.config, frames=2), [Icctp(tokens=11)])
    with torch.inference_mode():
        out = run.acts.at("encoder-output")[0].encoder_output(EncoderOutput(Patches(hidden, prefix=1, attention=probe)))
        attention, token = probe.rows(slice(0, 1))[:, :, 0, 1:].mean(dim=1), lvlm.dialect.adapter(hidden[:, 1:])
        places = icctp(token, attention, run.question_ND, 11, 0.6, 0.3)
    assert (out.prefix, out.attention) == (0, None)
    assert torch.equal(out.hidden_FND, torch.stack([hidden[f, 1 + places[f]] for f in range(2)]))


def test_every_frame_keeps_as_many(lvlm: LVLM) -> None:
    trace = lvlm.run(random_request(lvlm.config, frames=3, max_new_tokens=1), [Icctp(tokens=7)]).trace
    assert trace.llm_vision_tokens == [21] * 4
    request = random_request(lvlm.config, frames=1)
    assert torch.equal(lvlm.run(request, [Icctp(tokens=64)]).logits_NC, lvlm.run(request).logits_NC)


def test_it_wants_attention_and_a_question(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=1)
    run = lvlm.begin(request, [Icctp(tokens=3)])
    bare, empty = (
        Patches(torch.ones(1, 9, 32), prefix=1),
        replace(run, request=replace(request, prompt_N=request.prompt_N[:0])),
    )
    with pytest.raises(Refusal, match="ICCTP reads the encoder's attention, which these patches come without"):
        run.acts.at("encoder-output")[0].encoder_output(EncoderOutput(bare))
    with pytest.raises(Refusal, match="ICCTP chooses by the question, and these frames come without text"):
        Icctp(tokens=3).begin(empty).encoder_output(EncoderOutput(bare))
    assert lvlm.run(request, [ToMe(r=4), Icctp(tokens=7)]).trace.llm_vision_tokens == [7] * 4


@pytest.mark.parametrize("wrong", [{"tokens": 0}, {"global_share": 1.5}, {"alpha": -0.1}])
def test_arguments_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Icctp(**wrong)  # type: ignore[arg-type]
