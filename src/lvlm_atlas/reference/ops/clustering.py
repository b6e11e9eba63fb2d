"""Tokens in clusters: around density peaks or means, by merging, connected by links, or in segments of a sequence.

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
from lvlm_atlas.reference.ops.similarity import unit


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


def bounded_peaks(distance_NN: Tensor, density_N: Tensor, cutoff: float) -> Tensor:
    """Density peaks no two of which lie within a cutoff, and one of which lies within it of every token: places (K,).

    Again and again, whoever has no denser token within the cutoff becomes a peak, of those that no peak is near yet.
    That is what a walk by falling density gives, in which a token becomes a peak if none lies within the cutoff.

    Args:
        distance_NN: pairwise, 0 of a token to itself.
        density_N: on any scale; only the order counts, of equals the later is denser.
        cutoff: distance up to which a peak is near; from 0 on.
    """
    rank_N = density_N.argsort(stable=True).argsort()
    near_NN = distance_NN <= cutoff
    denser_NN = near_NN & (rank_N[None, :] > rank_N[:, None])
    peak_N = torch.zeros_like(rank_N, dtype=torch.bool)
    free_N = ~peak_N
    while bool(free_N.any()):
        new_N = free_N & ~(denser_NN & free_N).any(dim=1)
        peak_N |= new_N
        free_N = free_N & ~new_N & ~(near_NN & new_N).any(dim=1)
    return peak_N.nonzero()[:, 0]


def cosine_means(
    x_ND: Tensor, clusters: int, generator: torch.Generator, steps: int = 15, tolerance: float = 1e-4
) -> tuple[Tensor, Tensor]:
    """k-means by cosine: the cluster (N,) of each token, and the means (K, D) of those clusters.

    It starts from tokens drawn at random. Each token goes to the most similar mean, of equals the first; the mean of a
    cluster that nobody went to becomes a token drawn at random, so that clusters may be empty at the end. It ends when
    the square of the sum of all shifts is below the tolerance, or after so many steps.

    Args:
        x_ND: on the CPU, as the generator.
        clusters: K, from 1 to N.
        generator: of every draw.
        steps: most steps, one at least.
        tolerance: see above.

    Raises:
        ValueError: `clusters` lies outside that range.
    """
    if not 1 <= clusters <= len(x_ND):
        raise ValueError(f"clusters must be in 1..{len(x_ND)} (the tokens), got {clusters}")
    unit_ND, mean_KD = unit(x_ND), x_ND[torch.randperm(len(x_ND), generator=generator)[:clusters]]
    for _ in range(steps):
        cluster_N = (1 - unit_ND @ unit(mean_KD).mT).argmin(dim=1)
        before_KD, means = mean_KD, []
        for cluster in range(clusters):
            members_MD = x_ND[cluster_N == cluster]
            if not len(members_MD):
                members_MD = x_ND[torch.randint(len(x_ND), (1,), generator=generator)]
            means.append(members_MD.mean(dim=0))
        mean_KD = torch.stack(means)
        if float((mean_KD - before_KD).norm(dim=1).sum()) ** 2 < tolerance:
            break
    return cluster_N, mean_KD


def ward(x_ND: Tensor, clusters: int) -> Tensor:
    """The cluster (N,) of each token when those are merged whose union adds the least variance, until K are left.

    Merges that cost as much as the last are made too, so that there may be fewer; but where K is N or more, all stay
    apart, equal tokens too. So cuts scipy's `fcluster` by `maxclust`. Clusters are numbered by their first token.

    Args:
        x_ND: compared by Euclidean distance, in float64.
        clusters: K, one at least.

    Raises:
        ValueError: fewer than one cluster.
    """
    if clusters < 1:
        raise ValueError(f"clusters must be at least 1, got {clusters}")
    tokens = len(x_ND)
    first_N = torch.arange(tokens)
    if clusters >= tokens:
        return first_N
    x_ND = x_ND.double().cpu()
    cost_NN = (x_ND[:, None] - x_ND).square().sum(dim=-1).fill_diagonal_(math.inf)
    size_N = torch.ones(tokens, dtype=torch.float64)
    left, last = tokens, -math.inf
    while left > 1:
        place = int(cost_NN.argmin())
        one, two = place // tokens, place % tokens  # the first of equals, so that one < two
        least = float(cost_NN[one, two])
        if left <= clusters and least > last:
            break
        # Lance and Williams' update: from the costs with both parts to that with their union.
        both = size_N[one] + size_N[two]
        cost_N = (size_N[one] + size_N) * cost_NN[one] + (size_N[two] + size_N) * cost_NN[two] - size_N * least
        cost_N = cost_N / (both + size_N)
        cost_N[one] = math.inf
        cost_NN[one], cost_NN[:, one] = cost_N, cost_N
        cost_NN[two], cost_NN[:, two] = math.inf, math.inf
        size_N[one], left, last = both, left - 1, least
        first_N = first_N.where(first_N != two, one)
    label_N: Tensor = torch.unique(first_N, return_inverse=True)[1]
    return label_N


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
