"""VisionSelector."""

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import LlmInput
from lvlm_atlas.reference.modules.importance import ImportanceScorer
from lvlm_atlas.reference.modules.kept import drawn, give
from lvlm_atlas.reference.techniques.prefilling.visionselector import Selecting, VisionSelector, kept_of


def by_first_channel(width: int, device: str = "cpu") -> ImportanceScorer:
    """A scorer whose score is the first channel times a positive number."""
    scorer = ImportanceScorer(width, 1)
    for projection in (scorer.q_proj, scorer.k_proj):
        torch.nn.init.zeros_(projection.weight)
        torch.nn.init.zeros_(projection.bias)
    torch.nn.init.ones_(scorer.q_proj.weight[:, :1])
    torch.nn.init.ones_(scorer.k_proj.bias)
    return scorer.to(device).requires_grad_(requires_grad=False)


def sequence(hidden_ND: Tensor, vision: list[bool]) -> Sequence:
    place = torch.arange(len(hidden_ND), device=hidden_ND.device)[None]
    return Sequence(hidden_ND[None], place, torch.tensor([vision], device=hidden_ND.device), place)


def test_a_score_is_the_mean_logit_over_all_keys_without_a_softmax(device: str) -> None:
    scorer = drawn(lambda: ImportanceScorer(12, 6), device=device)
    x = torch.randn(2, 9, 12, generator=torch.Generator().manual_seed(0)).to(device)
    logit = scorer.q_proj(x) @ scorer.k_proj(x).mT / 6**0.5
    assert torch.allclose(scorer(x), logit.mean(dim=2), atol=1e-5)
    assert not torch.allclose(scorer(x), logit.mean(dim=1), atol=0.1)  # what a token gives, not what it receives


def test_requests_of_a_batch_do_not_see_each_other(device: str) -> None:
    scorer = drawn(lambda: ImportanceScorer(8, 4), device=device)
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1)).to(device)
    assert torch.allclose(scorer(x), torch.cat([scorer(one[None]) for one in x]), atol=1e-6)


@pytest.mark.parametrize(
    ("tokens", "reduction", "kept"),
    [(10, 0.75, 2), (10, 0.65, 4), (576, 0.9, 58), (1, 0.99, 1), (3, 0.99, 1), (0, 0.5, 0), (7, 0.0, 7)],
)
def test_the_number_kept_rounds_halves_to_even_and_one_stays(tokens: int, reduction: float, kept: int) -> None:
    assert kept_of(tokens, reduction) == kept


def test_the_best_stay_in_their_order_with_all_text_and_their_position_ids(device: str) -> None:
    hidden = torch.zeros(8, 4, device=device)
    hidden[:, 0] = torch.tensor([9.0, 2, 5, 1, 5, -7, 0, 8])
    vision = [False, True, True, True, True, True, False, False]
    out = Selecting(VisionSelector(reduction=0.6), by_first_channel(4, device)).llm_input(
        LlmInput(sequence(hidden, vision))
    )
    assert out.index_BN.tolist() == [[0, 2, 4, 6, 7]]
    assert out.position_BN.tolist() == [[0, 2, 4, 6, 7]]
    assert out.next_position.tolist() == [8]
    one = Selecting(VisionSelector(reduction=0.8), by_first_channel(4, device)).llm_input(
        LlmInput(sequence(hidden, vision))
    )
    assert one.index_BN.tolist() == [[0, 2, 6, 7]]  # of equals the first


def test_all_images_of_a_request_are_one_set_and_the_models_scorer_decides(device: str) -> None:
    lvlm = LVLM.random(device=device)
    run = lvlm.begin(random_request(lvlm.config), [VisionSelector(reduction=0.8)])
    give(lvlm, ImportanceScorer, by_first_channel(lvlm.config.text.hidden_size, device))
    out = lvlm.prepare(lvlm.begin(run.request, [VisionSelector(reduction=0.8)]))
    full = lvlm.prepare(lvlm.begin(run.request))
    first = full.hidden_BND[0, full.vision_BN[0], 0]
    kept = out.hidden_BND[0, out.vision_BN[0], 0]
    assert len(kept) == round(384 * (1 - 0.8))
    assert torch.equal(kept.sort().values, first.sort().values[-len(kept) :])


def test_every_layer_sees_all_text_and_the_kept_share_of_vision(device: str) -> None:
    lvlm = LVLM.random(device=device)
    trace = lvlm.run(random_request(lvlm.config), [VisionSelector(reduction=0.75)]).trace
    assert trace.llm_vision_tokens == [96] * 4
    assert trace.llm_tokens == trace.kv_entries == [112] * 4
    assert trace.probe_entries == 0


def test_dropping_nothing_changes_nothing(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    assert torch.equal(lvlm.run(request, [VisionSelector(reduction=0.0)]).logits_NC, lvlm.run(request).logits_NC)


@pytest.mark.parametrize("reduction", [-0.1, 1.0])
def test_shares_outside_their_range_are_refused(reduction: float) -> None:
    with pytest.raises(ValueError, match=r"reduction must lie in \[0, 1\)"):
        VisionSelector(reduction)
