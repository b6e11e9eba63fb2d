"""SparseVILA, the half before the LLM."""

import pytest
import torch

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import EncoderOutput
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.encoding.fastervlm import fastervlm
from lvlm_atlas.reference.techniques.encoding.sparsevila import SparseVILA, kept_count, salience, sparsevila


@pytest.mark.parametrize(
    ("patches", "sparsity", "kept"),
    [(576, 0.6, 230), (576, 0.75, 144), (729, 0.75, 182), (10, 0.75, 2), (64, 0.0, 64), (4, 0.99, 1), (1, 0.5, 1)],
)
def test_a_share_is_dropped_and_one_patch_stays_at_least(patches: int, sparsity: float, kept: int) -> None:
    assert kept_count(patches, sparsity) == kept  # 2.5 goes to the even number


def test_the_least_salient_go_and_the_others_keep_their_order(device: str) -> None:
    score = torch.tensor([[0.3, 0.05, 0.2, 0.1, 0.25]], device=device)
    assert sparsevila(score, 0.6).tolist() == [[0, 4]]
    assert sparsevila(score, 0.2).tolist() == [[0, 2, 3, 4]]  # the share is what goes, not what stays


def test_rows_and_heads_are_averaged(device: str) -> None:
    # Two summary tokens in two heads: patch 2 has 0.3 on average, 0 and 1 have 0.2 and 0.25 though they have peaks.
    rows = torch.tensor([[[[0.8, 0.0, 0.2], [0.0, 0.0, 0.3]], [[0.0, 1.0, 0.4], [0.0, 0.0, 0.3]]]], device=device)
    torch.testing.assert_close(salience(rows), torch.tensor([[0.2, 0.25, 0.3]], device=device))


def test_without_summary_tokens_it_is_the_attention_received_summed_in_blocks_or_not(device: str) -> None:
    weight = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0)).to(device).softmax(-1)
    blocks = sum(weight[:, :, start : start + 5].sum(2) for start in range(0, 12, 5)) / 12
    torch.testing.assert_close(salience(weight), torch.as_tensor(blocks).mean(1))
    torch.testing.assert_close(salience(weight).sum(1), torch.ones(2, device=device))


def test_it_keeps_what_fastervlm_keeps_of_as_many(device: str) -> None:
    attention = torch.rand(3, 4, 25, generator=torch.Generator().manual_seed(1)).to(device)
    kept = sparsevila(salience(attention[:, :, None]), 0.6)
    assert kept.shape == (3, 10)
    assert torch.equal(kept, fastervlm(attention, 10))


def test_the_class_tokens_row_decides_and_kept_patches_are_untouched(device: str) -> None:
    generator = torch.Generator().manual_seed(2)
    hidden, query, key = (
        torch.randn(2, *shape, generator=generator).to(device) for shape in ((17, 8), (4, 17, 5), (4, 17, 5))
    )
    out = SparseVILA(sparsity=0.5).encoder_output(EncoderOutput(Patches(hidden, 1, Probe(query, key, False), key)))
    weight = (query @ key.mT * 5**-0.5).softmax(-1)[:, :, :1, 1:]
    kept = sparsevila(salience(weight), 0.5)
    assert out.prefix == 0
    for frame in range(2):
        assert torch.equal(out.hidden_FND[frame], hidden[frame, 1 + kept[frame]])


def test_every_frame_drops_the_same_share_whatever_is_asked(device: str) -> None:
    lvlm = LVLM.random(device=device)
    kept = []
    for seed in (0, 1):  # the same frames, another question
        request = random_request(lvlm.config, text_tokens=8 + seed)
        run = lvlm.begin(request, [SparseVILA(sparsity=0.75)])
        sequence = lvlm.prepare(run)
        assert run.trace.vision_tokens == 6 * 16
        assert run.trace.probe_entries == 4 * 6 * 65
        kept.append(sequence.on_grid()[sequence.vision_BN])
    assert torch.equal(*kept)


@pytest.mark.parametrize("sparsity", [0.0, 0.005])
def test_dropping_nothing_changes_nothing(device: str, sparsity: float) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    neutral = lvlm.run(request, [SparseVILA(sparsity=sparsity)])
    assert torch.equal(neutral.logits_NC, lvlm.run(request).logits_NC)
    assert neutral.trace.probe_entries == 0


def test_patches_without_a_class_token_or_attention_are_refused() -> None:
    with pytest.raises(Refusal, match="the encoder has 0"):
        SparseVILA().encoder_output(EncoderOutput(Patches(torch.ones(1, 9, 3), prefix=0)))
    with pytest.raises(Refusal, match="without"):
        SparseVILA().encoder_output(EncoderOutput(Patches(torch.ones(1, 9, 3), prefix=1)))


@pytest.mark.parametrize("sparsity", [-0.1, 1.0])
def test_the_sparsity_lies_from_0_to_below_1(sparsity: float) -> None:
    with pytest.raises(ValueError, match="sparsity must lie"):
        SparseVILA(sparsity=sparsity)
