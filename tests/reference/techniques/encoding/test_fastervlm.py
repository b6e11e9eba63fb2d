"""FasterVLM."""

import pytest
import torch

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import EncoderOutput
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.encoding.fastervlm import FasterVLM, fastervlm
from lvlm_atlas.reference.techniques.encoding.vispruner import VisPruner, vispruner


def test_the_patches_of_most_attention_stay_in_the_order_of_the_image(device: str) -> None:
    attention = torch.tensor([[[0.1, 0.05, 0.3, 0.2, 0.01, 0.15]]], device=device)
    assert fastervlm(attention, 3).tolist() == [[2, 3, 5]]  # by attention they are 2, 3, 5; 0 comes fourth
    assert fastervlm(attention, 4).tolist() == [[0, 2, 3, 5]]


def test_attention_is_averaged_over_heads(device: str) -> None:
    # The first head's favourite is 0, the second's 1; together 2 has most.
    attention = torch.tensor([[[0.6, 0.0, 0.35], [0.0, 0.5, 0.3]]], device=device)
    assert fastervlm(attention, 1).tolist() == [[2]]


def test_each_frame_chooses_for_itself(device: str) -> None:
    attention = torch.tensor([[[0.1, 0.2, 0.3]], [[0.9, 0.8, 0.0]]], device=device)
    assert fastervlm(attention, 2).tolist() == [[1, 2], [0, 1]]


def test_equal_patches_are_kept_by_place(device: str) -> None:
    assert fastervlm(torch.ones(1, 2, 6, device=device), 4).tolist() == [[0, 1, 2, 3]]


def test_near_duplicates_of_a_salient_region_all_stay(device: str) -> None:
    # Patches 1 to 3 are one and the same; its successor would drop two of them, FasterVLM never looks at features.
    attention = torch.tensor([[[0.05, 0.3, 0.29, 0.28, 0.04, 0.03]]], device=device)
    x = torch.eye(6, device=device)[[0, 1, 1, 1, 4, 5]][None]
    assert fastervlm(attention, 3).tolist() == [[1, 2, 3]]
    assert vispruner(attention, x, 3, important_ratio=0.0).tolist() != [[1, 2, 3]]


@pytest.mark.parametrize("tokens", [1, 7, 24, 25, 40])
def test_it_is_its_successor_without_diversity(device: str, tokens: int) -> None:
    generator = torch.Generator().manual_seed(tokens)
    attention = torch.rand(3, 4, 25, generator=generator).to(device)
    x = torch.randn(3, 25, 6, generator=generator).to(device)
    assert torch.equal(fastervlm(attention, tokens), vispruner(attention, x, tokens, important_ratio=1.0))


def test_the_row_is_the_class_tokens_and_its_own_column_is_left_out(device: str) -> None:
    # The class token looks at itself first, then at patch 2; every patch looks at patch 0.
    query = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0]], device=device)[None, None]
    key = torch.tensor([[9.0, 0, 0], [0, 9, 0], [0, 0, 0], [3, 0, 0]], device=device)[None, None]
    hidden = torch.arange(4.0, device=device)[None, :, None]
    patches = Patches(hidden, 1, Probe(query, key, causal=False), key)
    out = FasterVLM(tokens=1).encoder_output(EncoderOutput(patches))
    assert out.hidden_FND.tolist() == [[[3.0]]]
    assert out.prefix == 0  # nothing else is cut off on the way to the adapter


def test_features_and_attention_are_those_of_the_last_layer_that_runs(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, max_new_tokens=1)
    assert torch.equal(
        lvlm.run(request, [FasterVLM(tokens=9)]).logits_NC,
        lvlm.run(request, [VisPruner(tokens=9, important_ratio=1.0)]).logits_NC,
    )


def test_every_frame_keeps_its_tokens_and_its_places_in_the_grid(device: str) -> None:
    lvlm = LVLM.random(device=device)
    run = lvlm.begin(random_request(lvlm.config), [FasterVLM(tokens=20)])
    sequence = lvlm.prepare(run)
    assert run.trace.encoder_tokens == [65] * 4  # it saves nothing in the encoder
    assert run.trace.vision_tokens == 6 * 20
    place_V3 = sequence.on_grid()[sequence.vision_BN].cpu()
    reading = (place_V3[:, 0] * 64 + place_V3[:, 1] * 8 + place_V3[:, 2]).tolist()
    assert reading == sorted(set(reading))
    assert run.trace.probe_entries == 4 * 6 * 65  # a row a head and frame


@pytest.mark.parametrize("tokens", [64, 576])
def test_with_as_many_tokens_as_patches_nothing_changes(device: str, tokens: int) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    neutral = lvlm.run(request, [FasterVLM(tokens=tokens)])
    assert torch.equal(neutral.logits_NC, lvlm.run(request).logits_NC)
    assert neutral.trace.probe_entries == 0


def test_patches_without_a_class_token_or_attention_are_refused() -> None:
    with pytest.raises(Refusal, match="the encoder has 0"):
        FasterVLM(tokens=2).encoder_output(EncoderOutput(Patches(torch.ones(1, 9, 3), prefix=0)))
    with pytest.raises(Refusal, match="without"):
        FasterVLM(tokens=2).encoder_output(EncoderOutput(Patches(torch.ones(1, 9, 3), prefix=1)))


def test_no_token_is_out_of_range() -> None:
    with pytest.raises(ValueError, match="tokens must be at least 1, got 0"):
        FasterVLM(tokens=0)
