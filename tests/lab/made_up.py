"""References that are made up: each does one thing that no technique of the catalog does yet."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.caches.host import HostStore
from lvlm_atlas.reference.caches.parted import by_modality
from lvlm_atlas.reference.caches.quantised import Half, QuantisedStore
from lvlm_atlas.reference.caches.store import PlainStore, Store
from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm import Refusal, Technique
from lvlm_atlas.reference.ops.attention import attend_inside
from lvlm_atlas.reference.ops.places import places_of
from lvlm_atlas.reference.ops.quantisation import FLOAT8, uniform


class HalvesSides(Technique):
    """Each side of each frame is halved."""

    acts_at = ("pixels",)

    def resize(self, at: Any) -> Tensor:
        return functional.avg_pool2d(at.frames_F3HW, 2)


class ConvolvesPatches(Technique):
    """One convolution takes the place of the encoder: a quarter of the patches, each of sixteen times the pixels."""

    acts_at = ("encoder",)
    needs = ("free-patches",)

    def begin(self, run: Any) -> Any:
        vision = run.config.vision
        self_ = ConvolvesPatches()
        generator = torch.Generator().manual_seed(0)
        side = 2 * vision.patch_size
        self_.kernel = torch.randn(vision.hidden_size, 3, side, side, generator=generator) / side
        return self_

    def encode(self, at: Any) -> Patches:
        kernel = self.kernel.to(at.frames_F3HW)
        return Patches(functional.conv2d(at.frames_F3HW, kernel, stride=kernel.shape[-1]).flatten(2).mT, prefix=0)


class EncodesTwice(Technique):
    """The model's own encoder reads each frame and its mirror image; the mean goes on."""

    acts_at = ("encoder",)

    def encode(self, at: Any) -> Patches:
        one, other = at.encoder(at.frames_F3HW), at.encoder(at.frames_F3HW.flip(-1))
        return replace(one, hidden_FND=(one.hidden_FND + other.hidden_FND) / 2)


class AttendsInPairs(Technique):
    """From encoder layer 1 on, a patch attends to itself and one neighbour; without a neighbour to itself alone."""

    acts_at = ("encoder-attention",)

    def attend_patches(self, at: Any) -> Tensor:
        if at.layer < 1:
            return at.attend()
        tokens = at.query_FHNd.shape[2]
        pairs = torch.arange(tokens - tokens % 2).reshape(-1, 2)
        last = torch.arange(tokens - tokens % 2, tokens).reshape(-1, 1)
        groups = [group for group in (pairs, last) if len(group)]
        return attend_inside(at.query_FHNd, at.key_FHNd, at.value_FHNd, groups)


class AttendsLinearly(Technique):
    """Keys and values are summed up before a query meets them, in every encoder layer."""

    acts_at = ("encoder-attention",)

    def attend_patches(self, at: Any) -> Tensor:
        query, key = at.query_FHNd.relu(), at.key_FHNd.relu()
        return query @ (key.mT @ at.value_FHNd) / (query @ key.sum(2)[..., None] + 1e-9)


class PoolsTokens(Technique):
    """Each frame's patches go through one linear map, then become one vision token for each four in a row."""

    acts_at = ("adapter",)
    needs = ("free-patches",)

    def begin(self, run: Any) -> Any:
        self_ = PoolsTokens()
        generator = torch.Generator().manual_seed(0)
        self_.weight = torch.randn(run.config.text.hidden_size, run.config.vision.hidden_size, generator=generator)
        return self_

    def adapt(self, at: Any) -> Tensor:
        token_FND = functional.linear(at.hidden_FND, self.weight.to(at.hidden_FND))
        return token_FND.unflatten(1, (-1, 4)).mean(2)


class DropsText(Technique):
    """The first token of the prompt, a word, does not enter the LLM."""

    acts_at = ("llm-input",)

    def llm_input(self, at: Any) -> Any:
        return at.sequence.keep(torch.arange(1, at.sequence.length)[None])


class Reverses(Technique):
    """The vision tokens are turned round before layer 2."""

    acts_at = ("llm-layer",)

    def llm_layer(self, at: Any) -> Any:
        if at.layer != 2:
            return at.sequence
        place, vision = torch.arange(at.sequence.length), at.sequence.vision_places()[0]
        place[vision] = vision.flip(0)
        return at.sequence.keep(place[None])


class SitsOut(Technique):
    """Every second vision token sits layer 1 out and returns unchanged."""

    acts_at = ("llm-layer",)

    def begin(self, run: Any) -> Any:
        return SitsOut()

    def llm_layer(self, at: Any) -> Any:
        sequence = at.sequence
        if at.layer == 1:
            away = torch.zeros(sequence.length, dtype=torch.bool)
            away[sequence.vision_places()[0][::2]] = True
            self.whole, self.stays = sequence, (~away).nonzero()[:, 0]
            return sequence.keep(self.stays[None])
        if at.layer == 2:
            hidden_BND = self.whole.hidden_BND.index_copy(1, self.stays, sequence.hidden_BND)
            return replace(self.whole, hidden_BND=hidden_BND, attention=None)
        return sequence


class CachesBackwards(Technique):
    """The entries of each layer are cached back to front."""

    acts_at = ("cache-tokens",)

    def compress_cache(self, at: Any) -> Any:
        index_BGS = at.entries.index_BGS
        return at.entries.keep(torch.arange(index_BGS.shape[2] - 1, -1, -1).expand_as(index_BGS))


class CutsFirstRound(Technique):
    """Of the first prompt of a session five vision entries are cached, of later ones all."""

    acts_at = ("cache-tokens",)

    def begin(self, run: Any) -> Any:
        acting = CutsFirstRound()
        acting.run = run  # type: ignore[attr-defined]
        return acting

    def compress_cache(self, at: Any) -> Any:
        if self.run.round:  # type: ignore[attr-defined]
            return at.entries
        vision = at.entries.vision_BGS
        keep = ~vision | (vision.cumsum(-1) <= 5)
        return at.entries.keep(places_of(keep))


class Bounded(PlainStore):
    """Holds so many entries at most: the first one and the most recent."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def settle(self) -> None:
        if self._length > self.limit:
            kept = torch.tensor([0, *range(self._length - self.limit + 1, self._length)])
            self._key, self._value = self._key[:, :, kept], self._value[:, :, kept]
            self._length = self.limit
        super().settle()


@dataclass(frozen=True)
class BoundsCache(Technique):
    """A layer's cache grows by `room` entries, then each new one takes the place of an old one."""

    room: int = 3

    acts_at = ("cache-bits",)

    def new_store(self, at: Any) -> Store:
        return Bounded(at.entries.index_BGS.shape[2] + self.room)


class UnevenHeads(Technique):
    """Head g of a layer drops its first 6 g vision entries of the prompt."""

    acts_at = ("cache-tokens",)

    def compress_cache(self, at: Any) -> Any:
        vision = at.entries.vision_BGS
        head = torch.arange(vision.shape[1])[None, :, None]
        return at.entries.keep_where(~vision | (vision.cumsum(-1) > 6 * head))


class ReadsRecent(Technique):
    """Attention of a decoding step reads the most recent half of the cache, rounded up."""

    acts_at = ("cache-bits",)

    def new_store(self, at: Any) -> Store:
        class Recent(PlainStore):
            def read(self) -> tuple[Tensor, Tensor]:
                key, value = super().read()
                return key[:, :, self.length // 2 :], value[:, :, self.length // 2 :]

        return Recent()


class Borrowed(Store):
    """The store of another layer."""

    def __init__(self, owner: Store) -> None:
        self.owner = owner

    def append(self, key_BGMd: Tensor, value_BGMd: Tensor) -> None:
        pass

    def read(self) -> tuple[Tensor, Tensor]:
        return self.owner.read()

    def retain(self, index_K: Tensor) -> None:
        pass

    def settle(self) -> None:
        pass

    @property
    def length(self) -> int:
        return self.owner.length

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.owner.tensors


class SharesLayers(Technique):
    """Each odd layer reads, while decoding, the keys and values of the layer before."""

    acts_at = ("cache-bits",)

    def begin(self, run: Any) -> Any:
        return SharesLayers()

    def new_store(self, at: Any) -> Store:
        if at.layer % 2:
            return Borrowed(self.owner)
        self.owner = PlainStore()
        return self.owner


class Offloads(Technique):
    """The values of every layer wait in the host's memory, from which each pass fetches all of them."""

    acts_at = ("cache-bits",)

    def new_store(self, at: Any) -> Store:
        class Values(PlainStore):
            fetched_byte = 0

            @property
            def host_tensors(self) -> tuple[Tensor, ...]:
                return self.tensors[1:]

            def read(self) -> tuple[Tensor, Tensor]:
                self.fetched_byte += sum(tensor.nbytes for tensor in self.host_tensors)
                return super().read()

        return Values()


class FetchesBlocks(Technique):
    """Vision entries wait on the host in blocks of 16; each pass reads the text and the block whose turn it is."""

    acts_at = ("cache-bits", "cache-read")

    def begin(self, run: Any) -> Any:
        return FetchesBlocks()

    def new_store(self, at: Any) -> Store:
        vision_S, self.groups = at.entries.vision_BGS[0, 0], at.entries.vision_BGS.shape[1]
        first, end = int(vision_S.nonzero()[0]), int(vision_S.nonzero()[-1]) + 1
        self.blocks = [(start, start + 16) for start in range(first, end - 15, 16)]
        self.text, self.passes = (~vision_S).nonzero()[:, 0], [0] * at.layers
        return HostStore(self.blocks)

    def choose_entries(self, at: Any) -> Tensor:
        start, end = self.blocks[self.passes[at.layer] % 2]
        self.passes[at.layer] += 1
        answer = torch.arange(int(self.text[-1]) + 1, at.settled)
        place = torch.cat([self.text, torch.arange(start, end), answer]).sort().values
        return place.expand(1, self.groups, -1)


@dataclass(frozen=True)
class MixesBits(Technique):
    """Vision entries are held in `bits` bits, later layers' in E4M3; text is exact everywhere."""

    bits: int = 2
    from_layer: int = 2

    acts_at = ("cache-bits",)

    def new_store(self, at: Any) -> Store:
        late = at.layer >= self.from_layer
        form = FLOAT8 if late else uniform(self.bits)

        def coded() -> Store:
            return QuantisedStore(*(Half(form, 8, across_tokens=False) for _ in range(2)))

        return by_modality(at.entries.vision_BGS, coded, PlainStore)


@dataclass(frozen=True)
class Stages(Technique):
    """Keeps a share of the vision tokens at each of several layers; what the model has no layers for is refused."""

    layers: tuple[int, ...] = (8, 16, 24)
    ratios: tuple[float, ...] = (0.5, 0.25, 0.125)

    acts_at = ("llm-layer",)

    def __post_init__(self) -> None:
        if len(self.layers) != len(self.ratios):
            raise Refusal(f"layers and ratios must be as many, got {len(self.layers)} and {len(self.ratios)}")

    def llm_layer(self, at: Any) -> Any:
        if at.layer == 0 and self.layers[-1] >= at.layers:
            raise Refusal(f"layers must be below {at.layers}, got {self.layers[-1]}")
        if at.layer not in self.layers:
            return at.sequence
        vision = at.sequence.vision_places().shape[1]
        keep = round(vision * self.ratios[self.layers.index(at.layer)])
        return at.sequence.keep_vision(torch.arange(keep, device=at.sequence.hidden_BND.device)[None])
