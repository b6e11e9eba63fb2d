"""DyCoke."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.flow.vision_tokens import Block, VisionTokens, blocks_of, grid_places
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import AdapterOutput, CacheRead
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.decoding.streamingllm import StreamingLlm
from lvlm_atlas.reference.techniques.prefilling.dycoke import DyCoke, alike, most_attended, temporal_mask


def video(*shape: int, seed: int = 0, device: str = "cpu") -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)


def temporal_places(x_TND: Tensor, reduction: float) -> list[Tensor]:
    """Places that each frame keeps."""
    return [kept_N.nonzero()[:, 0] for kept_N in temporal_mask(x_TND, reduction)]


def test_the_tokens_least_like_the_other_frame_stay_in_their_order(device: str) -> None:
    first = torch.tensor([[1.0, 0.0]] * 4, device=device)
    second = torch.tensor([[1.0, 0.1], [-1.0, 0.0], [5.0, 0.0], [0.0, 1.0]], device=device)
    kept = temporal_places(torch.stack([first, second]), 0.5)
    assert [each.tolist() for each in kept] == [[0, 1, 2, 3], [1, 3]]  # by angle; the third is longer, but the same


def test_of_four_frames_the_first_is_whole_and_each_other_has_its_partner(device: str) -> None:
    x = video(9, 10, 6, device=device)
    partner = {1: 0, 2: 0, 3: 2, 5: 4, 6: 4, 7: 6}
    for frame, kept in enumerate(temporal_places(x, 0.6)):
        expected = list(range(10))
        if frame in partner:
            cosine = functional.cosine_similarity(x[partner[frame]], x[frame], dim=-1)
            expected = sorted(cosine.topk(4, largest=False).indices.tolist())
        assert kept.tolist() == expected


def test_partners_are_compared_as_they_were_at_first(device: str) -> None:
    x = video(4, 8, 4, device=device)
    changed = x.clone()
    changed[0] = video(8, 4, seed=3, device=device)  # decides what stays of the third frame, not of the fourth
    one, two = temporal_places(x, 0.5), temporal_places(changed, 0.5)
    assert one[2].tolist() != two[2].tolist()
    assert one[3].tolist() == two[3].tolist()


@pytest.mark.parametrize("frames", [1, 2, 3, 5, 6])
def test_no_frame_is_lost_whatever_their_number(device: str, frames: int) -> None:
    kept = temporal_places(video(frames, 10, 4, device=device), 0.7)
    whole = -(-frames // 4)
    assert sum(map(len, kept)) == 10 * whole + 3 * (frames - whole)


@pytest.mark.parametrize(("tokens", "reduction", "left"), [(196, 0.7, 58), (10, 0.35, 6), (3, 0.9, 0), (7, 0.0, 7)])
def test_what_stays_of_a_compared_frame_is_rounded_down(device: str, tokens: int, reduction: float, left: int) -> None:
    assert len(temporal_places(video(2, tokens, 4, device=device), reduction)[1]) == left


def test_a_still_video_keeps_the_first_copy(device: str) -> None:
    x = torch.eye(6, device=device).expand(4, -1, -1)
    kept = temporal_places(x, 0.5)
    assert [each.tolist() for each in kept] == [[*range(6)]] + [[0, 1, 2]] * 3  # equally alike: the earlier ones


def test_tokens_are_dropped_and_not_averaged(device: str) -> None:
    x = video(2, 6, 4, device=device)
    tokens = VisionTokens(blocks_of(x, grid_places(2, 3).expand(2, -1, -1)), grid=(2, 3))
    lvlm = LVLM.random(device=device)
    acting = DyCoke(reduction=0.5).begin(lvlm.begin(random_request(lvlm.config, frames=2)))
    out = acting.adapter_output(AdapterOutput(tokens))
    kept = temporal_places(x, 0.5)
    for frame, block in enumerate(out.blocks):
        assert torch.equal(block.token_ND, x[frame][kept[frame]])
        assert block.place_N2.tolist() == grid_places(2, 3)[kept[frame].cpu()].tolist()
    with pytest.raises(Refusal, match=r"equally many tokens, got \[6, 5\]"):
        acting.adapter_output(AdapterOutput(VisionTokens((Block(x[0]), Block(x[1, :5])))))


def test_the_most_attended_entries_are_read_and_their_number_is_rounded_down(device: str) -> None:
    weight = torch.tensor([0.1, 0.4, 0.0, 0.3, 0.2], device=device)
    assert most_attended(weight, 0.5).tolist() == [1, 3]
    assert most_attended(weight, 0.0).tolist() == [0, 1, 2, 3, 4]
    assert most_attended(weight, 0.9).tolist() == []


def test_attention_of_two_steps_is_compared_by_angle(device: str) -> None:
    weight = torch.tensor([0.2, 0.4], device=device)
    assert alike(weight, 3 * weight) == pytest.approx(1)
    assert alike(weight, weight.flip(0)) == pytest.approx(0.8)


class Watching(Technique):
    """Notes which places each layer reads in decoding."""

    acts_at = ("adapter-output", "cache-read")
    needs = ("attention-row",)

    def __init__(self, setting: DyCoke) -> None:
        self.setting, self.read = setting, []

    def begin(self, run):
        acting = self.setting.begin(run)

        class Seeing:
            adapter_output = acting.adapter_output

            def choose_entries(_, at: CacheRead) -> Tensor | None:  # noqa: N805
                places = acting.choose_entries(at)
                if at.sequence is None:
                    self.read.append((at.layer, at.settled, places, at.held().vision_BGS[0, 0]))
                return places

        return Seeing()


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def reads(lvlm: LVLM, setting: DyCoke, tokens: int = 6) -> list[tuple[int, int, Tensor | None, Tensor]]:
    watching = Watching(setting)
    lvlm.run(random_request(lvlm.config, frames=2, max_new_tokens=tokens), [watching])
    return watching.read


def test_layers_from_the_chosen_one_on_read_all_text_and_some_of_the_rest(lvlm: LVLM) -> None:
    for layer, settled, places, vision in reads(lvlm, DyCoke(reduction=0.0, layer=2, skip=0.6)):
        if layer < 2:
            assert places is None
            continue
        assert places is not None
        assert places.shape == (1, 2, settled - 128 + int(128 * 0.4))
        assert bool((places.diff(dim=-1) > 0).all())
        text = (~vision).nonzero()[:, 0].tolist()
        assert set(text) <= set(places[0, 0].tolist())


def test_the_layer_before_chooses_by_the_newest_tokens_attention(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=2, max_new_tokens=2)
    first = next(places for layer, _, places, _ in reads(lvlm, DyCoke(reduction=0.0, layer=1, skip=0.6)) if layer == 1)
    with torch.inference_mode():
        run = lvlm.begin(request)
        prefill = lvlm.prefill(lvlm.prepare(run), run)
        key = prefill.cache.stores[0].read()[0]
        token = prefill.logits_BC[0].argmax()[None]
        layer = next(lvlm.language_model.layers)
        query, own, _ = layer.project(lvlm.embed(token)[None], prefill.cache.next_position[0][:, None])
        key = torch.cat([key, own], dim=2).repeat_interleave(2, dim=1)
        weight = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1).mean(1)[0, 0]
    best = (4 + weight[4:132].topk(51).indices).tolist()
    assert first is not None
    assert sorted(set(first[0, 0].tolist()) & {*range(4, 132)}) == sorted(best)


def test_a_choice_is_kept_until_attention_changes(lvlm: LVLM) -> None:
    def choices(threshold: float) -> int:
        seen = reads(lvlm, DyCoke(reduction=0.0, layer=1, skip=0.6, threshold=threshold), 10)
        chosen = [tuple(p[0, 0][(p[0, 0] >= 4) & (p[0, 0] < 132)].tolist()) for lay, _, p, _ in seen if lay == 1]
        return sum(one != two for one, two in pairwise(chosen))

    assert choices(-1.0) == 0
    assert choices(1.0) > 3


def test_nothing_is_evicted_and_left_out_entries_come_back(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=2, max_new_tokens=10)
    trace = lvlm.run(request, [DyCoke(reduction=0.0, layer=1, skip=0.6, threshold=1.0)]).trace
    assert trace.kv_entries == [144] * 4
    seen = reads(lvlm, DyCoke(reduction=0.0, layer=1, skip=0.6, threshold=1.0), 10)
    chosen = [set(p[0, 0].tolist()) for layer, _, p, _ in seen if layer == 1]
    gone = set(range(4, 132)) - chosen[0]
    assert any(gone & later for later in chosen[1:])


def test_keeping_and_reading_everything_changes_nothing(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=2)
    kept = lvlm.run(request, [DyCoke(reduction=0.0, skip=0.0)])
    torch.testing.assert_close(kept.logits_NC, lvlm.run(request).logits_NC, atol=1e-5, rtol=1e-5)


def test_what_does_not_fit_is_refused(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=1)
    with pytest.raises(Refusal, match=r"1\.\.3 for an LLM of 4 layers, got 4"):
        lvlm.run(request, [DyCoke(layer=4)])
    with pytest.raises(Refusal, match="unrotated keys"):
        lvlm.run(request, [DyCoke(), StreamingLlm()])
    for wrong in ({"reduction": 1.0}, {"skip": -0.1}, {"layer": 0}, {"threshold": 2.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            DyCoke(**wrong)
