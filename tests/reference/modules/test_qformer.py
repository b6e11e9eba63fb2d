"""The Q-Former."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from lvlm_atlas.reference.modules.kept import drawn
from lvlm_atlas.reference.modules.qformer import PostNormAttention, QFormer


def qformer(device: str, *, queries: int = 5, layers: int = 5, cross_every: int = 2) -> QFormer:
    """One of width 12 and three heads that reads features of width 7."""
    return drawn(lambda: QFormer(queries, 12, 3, layers, 7, cross_every=cross_every), device=device)


def features(device: str, frames: int = 2, number: int = 11) -> Tensor:
    return torch.randn(frames, number, 7, device=device)


def test_the_first_layer_reads_the_image_and_every_second_one_after_it(device: str) -> None:
    reads = [layer.cross_attention is not None for layer in qformer(device).layers]
    assert reads == [True, False, True, False, True]
    reads = [layer.cross_attention is not None for layer in qformer(device, cross_every=3).layers]
    assert reads == [True, False, False, True, False]


def test_the_norm_follows_the_sum(device: str) -> None:
    attention = drawn(lambda: PostNormAttention(6, 2, 4), device=device)
    x, source = torch.randn(1, 3, 6, device=device), torch.randn(1, 5, 4, device=device)
    heads = [
        each.reshape(1, -1, 2, 3).transpose(1, 2)
        for each in (attention.query(x), attention.key(source), attention.value(source))
    ]
    weights = (heads[0] @ heads[1].mT / 3**0.5).softmax(-1)
    read = attention.out((weights @ heads[2]).transpose(1, 2).reshape(1, 3, 6))
    torch.testing.assert_close(attention(x, source), functional.layer_norm(read + x, (6,), eps=1e-12))


def test_what_leaves_a_layer_is_normalised(device: str) -> None:
    out = qformer(device)(features(device))
    torch.testing.assert_close(out.mean(-1), torch.zeros_like(out[..., 0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.var(-1, correction=0), torch.ones_like(out[..., 0]))


def test_there_are_as_many_tokens_as_queries_whatever_is_read(device: str) -> None:
    module = qformer(device)
    for number in (1, 4, 40):
        assert module(features(device, 3, number)).shape == (3, 5, 12)


def test_a_frame_is_read_alike_whatever_frames_are_beside_it(device: str) -> None:
    module, x = qformer(device), features(device, 3)
    torch.testing.assert_close(module(x), torch.cat([module(each[None]) for each in x]))


def test_the_order_of_the_patches_does_not_matter(device: str) -> None:
    module, x = qformer(device), features(device)
    torch.testing.assert_close(module(x), module(x.flip(1)))
    assert not torch.allclose(module(x), module(x + 1))


def test_queries_speak_with_each_other(device: str) -> None:
    module, x = qformer(device, layers=1), features(device)
    before = module(x)
    module.query_tokens.data[4] = torch.randn(12, device=device)
    assert (module(x)[:, 0] != before[:, 0]).any(-1).all()


def test_the_mlp_is_four_times_as_wide(device: str) -> None:
    shapes = [tuple(each.weight.shape) for each in qformer(device).layers[1].modules() if isinstance(each, nn.Linear)]
    assert shapes == [(12, 12)] * 4 + [(48, 12), (12, 48)]
