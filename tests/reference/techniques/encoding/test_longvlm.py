"""LongVLM's merging of segments and its class tokens of the whole video."""

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm import LVLM, Refusal, random_request
from lvlm_atlas.reference.lvlm.contexts import EncoderLayer, EncoderOutput
from lvlm_atlas.reference.techniques.encoding.longvlm import LongVLM, Merging, merge_hierarchically, steps


def directions(*degrees: float, device: str = "cpu") -> Tensor:
    """Unit vectors (1, N, 2) at these angles."""
    angle = torch.tensor(degrees, dtype=torch.float64, device=device).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], dim=-1)[None]


def merge_by_loops(token_ND: Tensor, keep: int, heads: int) -> Tensor:
    """One segment, one pair at a time."""
    tokens = [(each, 1.0) for each in token_ND]
    while len(tokens) > keep:
        unit = [x.reshape(heads, -1).mean(0) for x, _ in tokens]
        unit = [x / x.norm() for x in unit]
        pairs = []
        for even in range(0, len(tokens), 2):
            cosines = [float(unit[even] @ unit[odd]) for odd in range(1, len(tokens), 2)]
            pairs.append((max(cosines), even, 2 * cosines.index(max(cosines)) + 1))
        pairs.sort(key=lambda pair: -pair[0])
        removed = min(len(tokens) // 2, len(tokens) - keep)
        sums = {odd: (tokens[odd][0] * tokens[odd][1], tokens[odd][1]) for odd in range(1, len(tokens), 2)}
        for _, even, odd in pairs[:removed]:
            x, size = tokens[even]
            sums[odd] = (sums[odd][0] + x * size, sums[odd][1] + size)
        tokens = [tokens[even] for _, even, _ in pairs[removed:]] + [(x / size, size) for x, size in sums.values()]
    return torch.stack([x for x, _ in tokens])


def test_the_published_schedules_are_halvings_down_to_what_is_kept() -> None:
    assert steps(2560, 30) == [1280, 640, 320, 160, 80, 40, 10]
    assert steps(5760, 50) == [2880, 1440, 720, 360, 180, 90, 40]
    assert steps(7, 2) == [3, 2]
    assert steps(5, 5) == steps(3, 5) == []
    assert steps(2, 1) == [1]


@pytest.mark.parametrize(("tokens", "keep"), [(40, 3), (9, 1), (7, 6), (16, 8), (1, 1)])
def test_a_segment_is_merged_as_pair_by_pair(device: str, tokens: int, keep: int) -> None:
    x = torch.randn(3, tokens, 8, dtype=torch.float64, device=device)
    merged = merge_hierarchically(x, keep, heads=4)
    for segment in range(3):
        torch.testing.assert_close(merged[segment], merge_by_loops(x[segment], keep, 4))


def test_sizes_are_carried_over_the_steps(device: str) -> None:
    x = torch.randn(2, 25, 6, dtype=torch.float64, device=device)
    torch.testing.assert_close(merge_hierarchically(x, 1, heads=3)[:, 0], x.mean(1))
    # Tokens that stand for more patches from the start weigh more.
    size = torch.rand(2, 25, dtype=torch.float64, device=device) + 1
    mean = (x * size[..., None]).sum(1) / size.sum(1, keepdim=True)
    torch.testing.assert_close(merge_hierarchically(x, 1, heads=3, size_BN=size)[:, 0], mean)


def test_features_decide_and_are_matched_anew_after_each_step(device: str) -> None:
    # First 0° and 10° merge to 5°; of the three tokens then, 70° is nearer to 100° than to 5°.
    x = directions(0, 10, 70, 100, device=device) * torch.tensor([1, 1, 1, 3], device=device)[None, :, None]
    merged = merge_hierarchically(x, 2, heads=1)
    torch.testing.assert_close(merged[0, 0], x[0, :2].mean(0))
    torch.testing.assert_close(merged[0, 1], x[0, 2:].mean(0))


def test_features_are_averaged_over_heads(device: str) -> None:
    x = directions(0, 80, 160, 165, device=device)
    apart = torch.zeros_like(x)
    apart[0, 2], apart[0, 3] = 50, -50  # cancels in the mean, pulls tokens 2 and 3 apart side by side
    both = torch.cat([x + apart, x - apart], dim=-1)
    merged = merge_hierarchically(both, 3, heads=2)
    torch.testing.assert_close(merged[0, 2], both[0, 2:].mean(0))


def merging(setting: LongVLM, states: list[Tensor], patches: Patches) -> Tensor:
    """What comes out where these states (F, 1 + N, D) entered the layers."""
    acting = Merging(setting, heads=1)
    for layer, state in enumerate(states):
        between = Patches(state + 7, prefix=1, entered_FND=state)
        acting.encoder_layer(EncoderLayer(layer, len(states), between))
    return acting.encoder_output(EncoderOutput(patches)).hidden_FND


def test_class_tokens_of_the_last_states_stand_in_front(device: str) -> None:
    states = [torch.randn(3, 5, 4, device=device) for _ in range(4)]
    patches = Patches(states[-1], prefix=1)
    for layers, expected in ((2, states[2:]), (9, states), (0, [])):
        out = merging(LongVLM(global_layers=layers, segment_tokens=1), states[:3], patches)
        assert out.shape == (1, len(expected) + 1, 4)
        for token, state in zip(out[0], expected, strict=False):
            torch.testing.assert_close(token, state[:, 0].mean(0))


def test_a_clip_starts_with_no_states(device: str) -> None:
    acting = Merging(LongVLM(global_layers=9, segment_tokens=1), heads=1)
    for state in (torch.zeros(2, 3, 4, device=device), torch.ones(2, 3, 4, device=device)):
        for layer in range(2):
            acting.encoder_layer(EncoderLayer(layer, 2, Patches(state, prefix=1, entered_FND=state)))
        out = acting.encoder_output(EncoderOutput(Patches(state, prefix=1)))
    assert out.hidden_FND.shape == (1, 3 + 1, 4)
    assert out.hidden_FND.eq(1).all()


def test_a_segment_holds_so_many_frames(device: str) -> None:
    x = torch.randn(5, 1 + 6, 4, dtype=torch.float64, device=device)
    x[:, 0] = 1e6
    out = merging(LongVLM(segment_frames=2, segment_tokens=3, global_layers=0), [x], Patches(x, prefix=1))[0]
    for segment, frames in enumerate((x[:2], x[2:4], x[4:])):
        merged = merge_hierarchically(frames[:, 1:].flatten(0, 1)[None], 3, heads=1)[0]
        torch.testing.assert_close(out[3 * segment : 3 * segment + 3], merged)
    assert len(out) == 9
    assert out.max() < 1e3


@pytest.mark.parametrize(
    ("setting", "frames", "tokens"),
    [
        (LongVLM(segment_frames=4, segment_tokens=10), 9, 3 + 2 * 10 + 10),
        (LongVLM(segment_frames=4, segment_tokens=50, global_layers=1), 9, 1 + 2 * 50 + 36),
        (LongVLM(max_frames=2, segment_tokens=5), 6, 3 + 5),
    ],
)
def test_the_llm_starts_from_so_many_tokens(device: str, setting: LongVLM, frames: int, tokens: int) -> None:
    lvlm = LVLM.random("tiny-mha", device=device)
    trace = lvlm.run(random_request(lvlm.config, frames=frames), [setting]).trace
    assert trace.llm_vision_tokens == [tokens] * 3


def test_tokens_of_tiled_frames_may_be_as_many_as_a_view_has_patches(device: str) -> None:
    lvlm = LVLM.random("tiny-tiles", device=device)
    setting = LongVLM(segment_frames=100, segment_tokens=16, global_layers=0)
    trace = lvlm.run(random_request(lvlm.config, frames=2), [setting]).trace
    assert trace.llm_vision_tokens == [16] * 3


def test_the_states_are_those_of_the_encoder(device: str) -> None:
    lvlm = LVLM.random("tiny-mha", device=device)
    request = random_request(lvlm.config, frames=2)
    seen = {}
    tower = lvlm.dialect.vision_tower.vision_model
    hooks = [
        tower.pre_layrnorm.register_forward_hook(lambda _module, _given, made: seen.update(first=made)),
        lvlm.dialect.adapter.register_forward_hook(lambda _module, given, _made: seen.update(x=given[0])),
    ]
    lvlm.run(request, [LongVLM(global_layers=3)])
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(seen["x"][0, 0], seen["first"][:, 0].mean(0))


def test_what_left_no_class_token_is_refused(device: str) -> None:
    with pytest.raises(Refusal, match="left none in front"):
        Merging(LongVLM(), 1).encoder_output(EncoderOutput(Patches(torch.ones(2, 3, 4, device=device), prefix=0)))
    with pytest.raises(Refusal, match="which this encoder does not show"):
        Merging(LongVLM(), 1).encoder_layer(EncoderLayer(0, 2, Patches(torch.ones(2, 3, 4, device=device), prefix=1)))


@pytest.mark.parametrize("name", ["max_frames", "segment_frames", "segment_tokens", "global_layers"])
def test_parameters_outside_their_range_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least"):
        LongVLM(**{name: -1})
