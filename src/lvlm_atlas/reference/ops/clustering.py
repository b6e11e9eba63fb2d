"""Tokens in clusters: around density peaks, connected by links, or in segments of a sequence.

Clusters are numbered by place. A partition into equally many in each row is a `Matching` (see `merging`), which merges.

B batch, N tokens, K clusters, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.ops.merging import Matching
from lvlm_atlas.reference.ops.places import take
from lvlm_atlas.reference.ops.selection import top_mask, top_places


def scaled_distance(x_BND: Tensor) -> Tensor:
    """Euclidean distance of each pair divided by √D, in float32 at least: (B, N, D) → (B, N, N), 0 between equals."""
    x_BND = x_BND.to(torch.promote_types(x_BND.dtype, torch.float32))
    # Not by products: |x|² + |y|² − 2xy cancels, and leaves equal tokens apart.
    distance_BNN: Tensor = torch.cdist(x_BND, x_BND, compute_mode="donot_use_mm_for_euclid_dist")
    return distance_BNN / math.sqrt(x_BND.shape[-1])


def knn_density(distance_BNN: Tensor, neighbours: int) -> Tensor:
    """exp(−mean of the squared distances to the nearest tokens), (B, N), in (0, 1].

    Args:
        distance_BNN: pairwise distances.
        neighbours: how many are nearest, the token itself among them; at most all N count.

    Raises:
        ValueError: fewer than one neighbour.
    """
    if neighbours < 1:
        raise ValueError(f"neighbours must be at least 1 (the token itself), got {neighbours}")
    nearest_BNk = distance_BNN.topk(min(neighbours, distance_BNN.shape[-1]), dim=-1, largest=False).values
    return nearest_BNk.square().mean(dim=-1).neg().exp()


def distance_to_denser(distance_BNN: Tensor, density_BN: Tensor) -> Tensor:
    """Distance (B, N) of each token to the nearest denser one; of equally dense tokens the earlier is denser.

    The densest token gets the greatest distance of any pair.

    Args:
        distance_BNN: pairwise distances.
        density_BN: on any scale; only the order counts.
    """
    order_BN = density_BN.argsort(dim=-1, descending=True, stable=True)
    rank_BN = order_BN.argsort(dim=-1)
    denser_BNN = rank_BN[:, None, :] < rank_BN[:, :, None]
    greatest_B11 = distance_BNN.amax(dim=(1, 2), keepdim=True)
    return distance_BNN.where(denser_BNN, greatest_B11).amin(dim=-1)


def nearest_centre(distance_BNN: Tensor, centre_BK: Tensor) -> Matching:
    """Each token goes to its nearest centre, of equally near ones the first; a centre to itself.

    Args:
        distance_BNN: pairwise distances.
        centre_BK: places of the centres, all different; one at least.
    """
    group_BN = take(distance_BNN, centre_BK).argmin(dim=1)
    clusters = centre_BK.shape[1]
    own_BK = torch.arange(clusters, device=centre_BK.device).expand_as(centre_BK)
    return Matching(group_BN.scatter(1, centre_BK, own_BK), clusters)


def density_peaks(distance_BNN: Tensor, density_BN: Tensor, clusters: int) -> tuple[Tensor, Matching]:
    """Density-peak clustering: the centres' places (B, K), ascending, and who goes to which.

    Centres have the highest density · distance to a denser token: dense, and far from what is denser. Densities from
    `knn_density` make it DPC-KNN. Released code of that adds noise of 1e-6 to densities against ties; here the order of
    places settles them, so that equal input gives equal clusters.

    Args:
        distance_BNN: pairwise distances.
        density_BN: positive.
        clusters: K, from 1 to N.

    Raises:
        ValueError: `clusters` lies outside that range.
    """
    if not 1 <= clusters <= density_BN.shape[1]:
        raise ValueError(f"clusters must be in 1..{density_BN.shape[1]} (the tokens), got {clusters}")
    centre_BK = top_places(density_BN * distance_to_denser(distance_BNN, density_BN), clusters)
    return centre_BK, nearest_centre(distance_BNN, centre_BK)


def connected_components(link_BNN: Tensor) -> Tensor:
    """The lowest place (B, N) of each token's component; tokens are connected along any chain of links.

    Args:
        link_BNN: True where two tokens are linked, in either direction; their similarity reaches a threshold, say.
    """
    token_N = torch.arange(link_BNN.shape[-1], device=link_BNN.device)
    joined_BNN = link_BNN | link_BNN.mT | (token_N == token_N[:, None])
    lowest_BN = token_N.expand(link_BNN.shape[:2])
    while True:
        reached_BN = lowest_BN[:, None, :].where(joined_BNN, len(token_N)).amin(dim=-1)
        reached_BN = reached_BN.gather(1, reached_BN)  # the lowest place's own lowest place: chains shorten by half
        if torch.equal(reached_BN, lowest_BN):
            return lowest_BN
        lowest_BN = reached_BN


def segments(similarity: Tensor, threshold: float, least: int = 1) -> Tensor:
    """The segment (…, N) of each token of a sequence, 0, 1, … in order: frames of a video, say.

    A sequence is cut where neighbours are less similar than the threshold, and between the `least` − 1 least similar
    neighbours (of equals the first) at any rate.

    Args:
        similarity: (…, N − 1) of each token and the next.
        threshold: cut below it, not at it; −∞ makes `least` segments.
        least: segments at least, from 1 to N.

    Raises:
        ValueError: `least` lies outside that range.
    """
    places = similarity.shape[-1]
    if not 1 <= least <= places + 1:
        raise ValueError(f"least must be in 1..{places + 1} (the tokens), got {least}")
    cut = (similarity < threshold) | top_mask(-similarity, least - 1)
    return functional.pad(cut.cumsum(dim=-1), (1, 0))
