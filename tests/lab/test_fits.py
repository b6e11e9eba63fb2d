"""The table of what fits, held against runs: each technique is refused exactly where the table says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from lvlm_atlas import load
from lvlm_atlas.lab.built import built
from lvlm_atlas.needs import LACKS, unmet
from lvlm_atlas.reference.lvlm import LVLM, Refusal, random_request
from lvlm_atlas.reference.lvlm.presets import PRESETS
from lvlm_atlas.roofline.workload import Image, Video, Workload
from lvlm_atlas.schema.technique import Technique
from lvlm_atlas.specs.fits import offers, problem
from lvlm_atlas.specs.records import model_spec

ATLAS = load(Path(__file__).resolve().parents[2])
IMPLEMENTED = [technique for technique in ATLAS.atlas.techniques.values() if technique.reference]
TWINS = {type(PRESETS[id_]): record for id_, record in ATLAS.atlas.models.items() if id_ in PRESETS}
"""A record of the catalog for each dialect of the reference LVLM."""
SMALL = [name for name in PRESETS if name.startswith("tiny")]


@pytest.mark.parametrize("id_", [id_ for id_ in PRESETS if id_ in ATLAS.atlas.models])
def test_a_dialect_offers_what_its_record_offers(id_: str) -> None:
    assert LVLM.empty(PRESETS[id_]).dialect.offers == offers(model_spec(ATLAS.atlas.models[id_]))


@pytest.mark.parametrize("preset", SMALL)
@pytest.mark.parametrize("technique", IMPLEMENTED, ids=lambda technique: technique.id)
def test_a_run_is_refused_exactly_where_the_table_says_so_and_with_its_words(
    technique: Technique, preset: str, device: str
) -> None:
    lvlm = LVLM.random(preset, device=device)
    record = TWINS[type(lvlm.config)]
    kinds = {"image": Workload(images=(Image(64, 64),)), "video": Workload(videos=(Video(64, 64, 4.0),))}
    said = problem(technique, model_spec(record), kinds[technique.modality[0]])
    request, ran, refusals = random_request(lvlm.config, max_new_tokens=2), 0, []
    for setting in technique.trials:
        try:
            ran += bool(lvlm.run(request, [built(str(technique.reference), setting, lvlm)]).logits_NC.isfinite().all())
        except Refusal as error:
            refusals.append(str(error))
    lacking = unmet(technique.needs, lvlm.dialect.offers)
    assert bool(said) == bool(lacking) == (ran == 0)
    for words in (*(f"needs `{need}`" for need in lacking[:1]), *(LACKS[need] for need in lacking[:1])):
        assert words in str(said)
        assert all(words in refusal for refusal in refusals)
    assert lacking or not any("needs `" in refusal for refusal in refusals)


def test_every_need_that_a_model_decides_is_lacking_in_some_model_and_met_in_another() -> None:
    offered = [offers(model_spec(record)) for record in ATLAS.atlas.models.values()]
    for need in LACKS:
        assert 0 < sum(need in each for each in offered) < len(offered)
