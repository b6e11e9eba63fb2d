"""FOCUS: clips of the video as arms of a bandit; only those that may hold what is asked for are looked at closely.

Paper: zhu2026focus; code: NUS-HPC-AI-Lab/FOCUS, focus.py, and select_keyframe.py for the least gap.

Symbols: budget k → max_frames, arms (clips) → A, samples of an arm n_a, mean µ_a, variance v_a, all samples N; the
seconds of an arm → coarse_every_s, those between close samples → fine_every_s.

Stand-in: the reward is the cosine of a CLIP-shaped matcher with random weights, unless one is given; the paper's is the
matching probability of BLIP.

Departs:
1. A cosine c becomes the reward (1 + c) / 2, since the bound and the estimates want rewards from 0 to 1. The text is
   the whole prompt; upstream scores the question alone.
2. A video of at most k frames is kept whole, and nothing is scored.
3. What the best arms cannot hold is drawn from the next ones, and last from the frames behind the last arm. Upstream
   then returns fewer than k frames, for instance of a video that was sampled thinly, whose arms hold a frame or two.
4. A video of less than a frame a second lasts as long as its frames say; upstream counts a second a frame.
5. Close samples that are every frame of their window are just that; upstream takes its centre alone.
6. Released code never adds the close samples to their arm, so that they decide nothing but who is best of all. That is
   the default here; `learn_closely` adds them to the bound and to the estimates.

F frames, K kept, N frames of an arm, A arms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.request import Request
from lvlm_atlas.reference.lvlm.contexts import Frames
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.matcher import ImageTextMatcher, matcher_of
from lvlm_atlas.reference.ops.sampling import draw_places

Rewards = Mapping[int, float]
"""The reward of each frame that was scored, in the order of scoring."""
NO_GAP_S = 0.2
"""Where chosen frames would lie this close on average, none needs to keep its distance."""
LEAST_VARIANCE = 1e-6
"""An arm whose samples are all alike still has this much."""


@dataclass(frozen=True)
class Division:
    """How a video is divided, all in frames."""

    arms: tuple[range, ...]
    """Of equal length; what is left at the end belongs to none."""
    half_window: int
    """How far close samples go from the centre of an arm, to both sides."""
    spacing: int
    """Between close samples, on average."""


def divide(frames: int, rate: float, coarse_every_s: float, fine_every_s: float, min_arms: int) -> Division:
    """The arms of a video of so many frames, `rate` a second: one every `coarse_every_s`, `min_arms` at least."""
    second = frames / rate
    wanted = max(min_arms, math.ceil(second / coarse_every_s))
    stride = max(1, frames // wanted)
    count = max(1, frames // stride)
    size = frames // count
    half_s = max(1 / rate, second / wanted / 2)
    return Division(
        tuple(range(arm * size, (arm + 1) * size) for arm in range(count)),
        max(1, round(half_s * rate)),
        min(max(1, round(fine_every_s * rate)), stride),
    )


def centre(arm: range) -> int:
    """The middle frame of an arm, of two the earlier."""
    return (arm[0] + arm[-1]) // 2


def coarse_places(arm: range, extra: int, generator: torch.Generator) -> list[int]:
    """The frames of an arm that are looked at first: its centre, and `extra` others at random, all if fewer."""
    middle = centre(arm)
    return [middle, *_some([place for place in arm if place != middle], extra, generator)]


def upper_bounds(reward_A: Seq[Tensor]) -> Tensor:
    """Optimistic rewards (A,), float64: µ_a + √(2 ln N · v_a / n_a) + 3 ln N / n_a, empirical Bernstein.

    The variance divides by n_a, and is at least `LEAST_VARIANCE`.

    Args:
        reward_A: rewards (n_a,) of the samples of each arm, one at least.
    """
    log_samples = math.log(sum(map(len, reward_A)))
    bounds = []
    for reward_N in (each.double() for each in reward_A):
        samples = len(reward_N)
        variance = max(float(reward_N.var(correction=0)), LEAST_VARIANCE)
        radius = math.sqrt(2 * log_samples * variance / samples) + 3 * log_samples / samples
        bounds.append(float(reward_N.mean()) + radius)
    return torch.tensor(bounds, dtype=torch.float64)


def fine_places(
    arms: Iterable[range],
    division: Division,
    frames: int,
    scored: Collection[int],
    even_share: float,
    generator: torch.Generator,
) -> list[int]:
    """The frames around the centres of some arms that are looked at closely, ascending, without those scored before.

    In the window of an arm there are as many samples as the spacing says, one at least: a share at the middles of equal
    parts, where no sample is yet, and the others at random among what is left.
    """
    found: set[int] = set()
    for arm in arms:
        start = max(0, centre(arm) - division.half_window)
        window = range(start, min(frames, centre(arm) + division.half_window + 1))
        samples = max(1, len(window) // division.spacing)
        even = round(samples * even_share)
        part = len(window) / max(1, even)
        found |= {min(start + int(i * part + part / 2), window[-1]) for i in range(even)} - {*scored}
        free = [place for place in window if place not in scored and place not in found]
        found |= {*_some(free, samples - even, generator)}
    return sorted(found)


def estimate(place_N: Tensor, known: Rewards) -> Tensor:
    """Rewards (N,), float64: at each place that of the nearest one known, of two the first, clipped to [0, 1]."""
    known_K = torch.tensor([*known])
    nearest_N = (place_N[:, None] - known_K).abs().argmin(dim=1)
    return torch.tensor([*known.values()], dtype=torch.float64)[nearest_N].clamp(0, 1)


def draw_in_arm(
    arm: Iterable[int],
    known: Rewards,
    chosen: Collection[int],
    quota: int,
    gap: int,
    temperature: float,
    generator: torch.Generator,
) -> list[int]:
    """Frames of an arm, `quota` or as many as there are, drawn by softmax(estimated reward / temperature).

    Those closer than `gap` to a chosen frame take part only where all are. Estimates run from 0 to 1 among those that
    take part; if they are all alike, each is as likely.
    """
    free = [place for place in arm if place not in chosen] if quota else []
    apart = [place for place in free if all(abs(place - other) >= gap for other in chosen)] or free
    if not apart:
        return []
    place_N = torch.tensor(apart)
    reward_N = estimate(place_N, known)
    low, high = reward_N.min(), reward_N.max()
    logit_N = (reward_N - low) / (high - low if high > low else 1) / temperature
    return place_N[draw_places(logit_N, min(quota, len(apart)), generator)].tolist()


@dataclass(frozen=True)
class Focus(Technique):
    """At `frames`: keeps `max_frames` of the frames, and scores some of them.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    max_frames: int = 64
    coarse_every_s: float = 16.0
    fine_every_s: float = 1.0
    min_arms: int = 8
    extra_samples: int = 2
    zoom_ratio: float = 0.25
    min_zoomed: int = 4
    min_drawn: int = 4
    max_drawn: int = 32
    even_share: float = 0.5
    top_ratio: float = 0.2
    temperature: float = 0.06
    gap_ratio: float = 0.25
    max_gap_s: float = 1.0
    learn_closely: bool = False
    matcher: ImageTextMatcher | None = None
    """Scores the frames; None takes the one that the model of the run keeps, see `matcher_of`."""

    acts_at: ClassVar = ("frames",)
    needs: ClassVar = ("image-text-matcher", "timestamps")

    def __post_init__(self) -> None:
        counts = {"max_frames": 1, "min_arms": 1, "extra_samples": 0, "min_zoomed": 1, "min_drawn": 1, "max_drawn": 1}
        for name, least in counts.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("coarse_every_s", "fine_every_s", "temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        self.expect_shares("zoom_ratio", "even_share", "top_ratio")
        self.expect_at_least(0, "gap_ratio", "max_gap_s")

    def begin(self, run: Run) -> Focus:
        """The technique with a matcher."""
        return self if self.matcher else replace(self, matcher=matcher_of(run))

    def select_frames(self, at: Frames) -> Tensor:
        """Indices (K,) of the frames to keep, ascending.

        Raises:
            ValueError: frames must be scored and nothing scores them.
        """
        request, frames = at.request, len(at.request.frames_F3HW)
        if frames <= self.max_frames:
            return torch.arange(frames)
        generator = torch.Generator().manual_seed(request.seed)
        chosen = self.choose(frames, frame_rate(request), lambda places: self._rewards(request, places), generator)
        return torch.tensor(sorted(chosen))

    def choose(
        self, frames: int, rate: float, score: Callable[[list[int]], Rewards], generator: torch.Generator
    ) -> list[int]:
        """The frames to keep, in the order of choice; `max_frames`, or all if they are fewer.

        Args:
            frames: F.
            rate: frames a second.
            score: the rewards of frames at some places, ascending.
            generator: of every draw.
        """
        division = divide(frames, rate, self.coarse_every_s, self.fine_every_s, self.min_arms)
        arms = division.arms
        coarse = [coarse_places(arm, self.extra_samples, generator) for arm in arms]
        rewards = dict(score(sorted(place for places in coarse for place in places)))
        known = [{place: rewards[place] for place in places} for places in coarse]
        rewards = {place: reward for each in known for place, reward in each.items()}
        bests = self._best_first(known)
        share = math.ceil(len(arms) * self.zoom_ratio)
        zoomed = [arms[number] for number in bests[: max(self.min_zoomed, share)]]
        fine = fine_places(zoomed, division, frames, rewards, self.even_share, generator)
        if fine:
            rewards |= score(fine)
        if self.learn_closely:
            for arm, samples in zip(arms, known, strict=True):
                samples |= {place: rewards[place] for place in fine if place in arm}
            bests = self._best_first(known)

        top = round(self.top_ratio * min(self.max_frames, len(rewards)))
        chosen = sorted(rewards, key=rewards.__getitem__, reverse=True)[:top]
        rest = self.max_frames - top
        final = bests[: min(max(self.min_drawn, share), self.max_drawn)]
        gap = round(self._gap_s(frames / rate) * rate)
        for rank, number in enumerate(final):
            quota = rest // len(final) + (rank < rest % len(final))
            chosen += draw_in_arm(arms[number], known[number], chosen, quota, gap, self.temperature, generator)
        for number in bests:  # what is missing, however near
            missing = self.max_frames - len(chosen)
            chosen += draw_in_arm(arms[number], known[number], chosen, missing, 0, self.temperature, generator)
        behind = [place for place in range(arms[-1].stop, frames) if place not in chosen]
        return chosen + behind[: self.max_frames - len(chosen)]

    def _best_first(self, known: Seq[Rewards]) -> list[int]:
        """The arms by the bound on their reward, the highest first, of equals the earlier."""
        bound_A = upper_bounds([torch.tensor([*each.values()], dtype=torch.float64) for each in known])
        order: list[int] = bound_A.argsort(descending=True, stable=True).tolist()
        return order

    def _gap_s(self, second: float) -> float:
        """Least seconds between a frame that is drawn and those chosen before; none where frames lie close anyway."""
        spacing = second / self.max_frames
        return 0.0 if spacing <= NO_GAP_S else min(self.gap_ratio * spacing, self.max_gap_s)

    def _rewards(self, request: Request, places: list[int]) -> Rewards:
        if self.matcher is None:
            raise ValueError("select_frames needs a matcher; give one, or call what `begin` returns")
        some = request.keep_frames(torch.tensor(places)).runs
        cosine_F = torch.cat([self.matcher.score(frames_F3HW, request.text_N) for frames_F3HW in some])
        return dict(zip(places, ((1 + cosine_F.double().cpu()) / 2).tolist(), strict=True))


def frame_rate(request: Request) -> float:
    """Frames a second of a request, on average; two where its frames have no length in time."""
    second_F = request.seconds_F.double()
    length = float(second_F[-1] - second_F[0])
    return (len(second_F) - 1) / length if length > 0 else 2.0


def _some(places: list[int], count: int, generator: torch.Generator) -> list[int]:
    """`count` of some places at random, all if fewer."""
    if not places or count <= 0:
        return []
    return [places[index] for index in torch.randperm(len(places), generator=generator)[:count].tolist()]
