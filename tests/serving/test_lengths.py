"""Requests drawn from what sources published are distributed as they say."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest
from pydantic import ValidationError

from lvlm_atlas.roofline.workload import Image
from lvlm_atlas.schema.traffic import Sort
from lvlm_atlas.serving.lengths import Lengths, at
from lvlm_atlas.serving.traffic import synthetic

PHOTO = Image(512, 512)


def test_draws_have_the_quantiles_and_images_of_the_record(planner) -> None:
    records = planner.atlas.traffic
    assert records
    for record in records.values():
        drawn = [each.workload for each in islice(Lengths(record, PHOTO, seed=4).draws(), 8000)]
        for sort in record.sorts:
            own = [each for each in drawn if each.id.endswith(sort.name)]
            assert len(own) / len(drawn) == pytest.approx(sort.share, abs=0.02)
            lengths = {"text_tokens": sort.text_tokens, "output_tokens": sort.output_tokens}
            for name, quantiles in lengths.items():
                found = sorted(getattr(each, name) for each in own)
                for percent in (20, 50, 80):
                    near = [found[int(len(found) * (percent + off) / 100)] for off in (-2, 2)]
                    assert near[0] - 1 <= at(quantiles, percent) <= near[1] + 1, (record.id, name, percent)
            counts = Counter(sum(image.count for image in each.images) for each in own)
            for count, share in sort.images or ((0, 1.0),):
                assert counts[count] / len(own) == pytest.approx(share, abs=0.02)


def test_the_same_seed_draws_the_same_requests(planner) -> None:
    record = next(iter(planner.atlas.traffic.values()))
    one, two, other = ([*synthetic(Lengths(record, PHOTO, seed), 2.0, 50)] for seed in (1, 1, 2))
    assert one == two != other


def test_between_quantiles_lengths_lie_on_straight_lines() -> None:
    quantiles = ((0, 10), (50, 20), (100, 120))
    assert [at(quantiles, percent) for percent in (0, 25, 50, 75, 100)] == [10, 15, 20, 70, 120]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"text_tokens": ((0, 5), (50, 4), (100, 9))}, "does not rise"),
        ({"text_tokens": ((0, 5), (90, 9))}, "does not reach from 0 to 100"),
        ({"images": ((1, 0.5), (2, 0.4))}, "do not add up to 1"),
    ],
)
def test_a_distribution_that_is_none_is_refused(wrong, said: str) -> None:
    sound = {"name": "all", "text_tokens": ((0, 1), (100, 9)), "output_tokens": ((0, 1), (100, 9))}
    assert Sort(**sound)
    with pytest.raises(ValidationError, match=said):
        Sort(**{**sound, **wrong})
