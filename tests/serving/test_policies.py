"""Policies of the catalog: each runs, and their sizes are what a command says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.serving.policies import PLAIN, policies, policy
from lvlm_atlas.serving.simulation import simulate
from lvlm_atlas.serving.traffic import Kind, Mix, synthetic
from lvlm_atlas.serving.wires import Wires


def test_every_layout_of_the_catalog_runs(planner, prices) -> None:
    systems = planner.atlas.systems
    known = policies(systems)
    assert PLAIN in known
    assert len(known) == sum(len(system.simulated) for system in systems.values()), "a name stands for two layouts"
    photo = planner.workload("single-image-chat")
    asked = (photo, planner.request("images-20", images=3), replace(photo, images=()))
    mix = Mix(tuple(Kind(each, 1) for each in asked))
    for name, (_, layout) in known.items():
        sized = policy(systems, name, 8)
        priced = prices(encoder_data_parallel=layout.encoder_data_parallel)
        run = simulate(sized, priced, synthetic(mix, 10.0, 30), Wires(byte_s=4.5e11))
        assert len(run.tally.total_s) == 30, name


def test_systems_that_are_laid_out_in_one_way_go_by_their_id_too(planner) -> None:
    systems = planner.atlas.systems
    assert policy(systems, "epdserve", 8) == policy(systems, "epd:2,2,4", 8)


def test_forms_of_a_system_lay_its_stages_out_apart_too(planner) -> None:
    systems = planner.atlas.systems
    pairs = [(one, systems[id_]) for one in systems.values() for id_ in one.forms]
    assert pairs
    for one, form in pairs:
        assert {*form.stages} <= {*one.stages}
        assert any(len(layout.pools) > 1 for layout in form.simulated), f"{form.id} keeps all stages together"


@pytest.mark.parametrize(
    ("text", "instances", "said"),
    [
        ("epf", 8, "no policy 'epf'; did you mean 'epd'?"),
        (
            "epd:2,2",
            None,
            "policy epd has 3 pools, and 2 sizes were given; give one for each of encode (E), prefill (P)",
        ),
        ("epd:2,2,2", 8, "its pools take 6 devices, and there are 8; let the two agree"),
        ("epd:0,1,1", None, "'0,1,1' are no sizes"),
        ("epd:a", None, "'a' are no sizes; give instances of each pool, such as epd:2,2,4"),
        ("epd", 2, "it has 3 pools, and the devices make 2 instances; give it 3 or more"),
        ("hydrainfer", 8, "hydrainfer has several layouts; give one of ep-d, ed-p"),
        ("epd:2,2x2,4", 8, "pool prefill runs more than the encoder, so that --tp says its devices"),
        ("spaceserve:2,3", None, "pools of policy spaceserve share devices; give each 2 instances"),
    ],
)
def test_a_policy_that_is_none_is_refused(planner, text: str, instances, said: str) -> None:
    with pytest.raises(AtlasError) as refused:
        policy(planner.atlas.systems, text, instances)
    assert said in str(refused.value)


@pytest.mark.parametrize(("instances", "sizes"), [(3, (1, 1, 1)), (4, (1, 1, 2)), (8, (2, 2, 4)), (9, (2, 2, 5))])
def test_without_sizes_devices_are_divided_as_the_record_says(planner, instances: int, sizes) -> None:
    assert tuple(pool.instances for pool in policy(planner.atlas.systems, "epd", instances).pools) == sizes
