"""The texts of a new technique's files. What its author must write is marked `FILL IN`, in every field alike."""

from __future__ import annotations

from string import Template

ENTRY = Template("""\
# yaml-language-server: $$schema=../../../../taxonomy/schema/technique.json
id: $id
$name_line
aliases: []
summary: FILL IN, in one sentence, what it does and what that buys.
paper: $paper
stage: $stage
family: $family
modality: ['FILL IN which of $modalities']
training: FILL IN one of $trainings.
query_aware: FILL IN true or false, whether its choice depends on the text of the prompt.
acts_at: [$positions]
relieves:
  - {stage: $stage, bound: 'FILL IN one of $bounds'}
mechanism: ['FILL IN what `lvlm-atlas terms mechanism` lists']
signals: ['FILL IN what `lvlm-atlas terms signal` lists']
needs: [$needs'FILL IN what else of `lvlm-atlas terms need`, or nothing']
explanation: >-
  FILL IN how it works and why, in a paragraph.
algorithm:
$steps
parameters: FILL IN a key for each, with type, default, range or choices, and doc; or {}.
effects:
$effects
overheads: FILL IN a list of what it costs, each with stage, amounts and why; or [].
interactions: []
reported: []
${rest}verified: FILL IN one of $verifications, against which the entry was checked.
updated: '$today'
""")

DESCRIBED = Template("""\
status: described
""")

IMPLEMENTED = Template("""\
pitfalls:
  - mistake: FILL IN a way to get it wrong.
    test: FILL IN the name of the test that a wrong implementation fails, test_…
status: implemented
reference: lvlm_atlas.reference.techniques.$package.$module:$class_name
neutral: FILL IN the setting under which nothing changes, or no_neutral with the reason why there is none.
trials:
  - FILL IN a setting under which the tiny model shows what it does.
""")

AMOUNT = "    scale: FILL IN the share that is left, or set, cap, remove, or bounds at_least and at_most instead"
"""How an effect says its amount, unless its quantity has fields of its own."""

AMOUNTS = {
    "kv.bits": """\
    key: FILL IN bits of an element of K
    value: FILL IN bits of an element of V
    group_size: FILL IN numbers that share a scale and a zero point
    group_overhead_bit: FILL IN bits of these for a group""",
    "speculation": """\
    draft_length: FILL IN drafted tokens on the longest path of a round
    draft_nodes: FILL IN tokens that the target verifies in one pass
    draft_passes: FILL IN passes of the draft model in a round
    accepted_at_most: FILL IN drafted tokens accepted in a round, at most
    draft_vision_tokens: FILL IN vision tokens in the cache of the draft
    exact: FILL IN distribution, greedy or no""",
}
"""The fields of effects that do not change one count."""

REFERENCE = Template('''\
"""$name.

Paper: $paper, FILL IN section and equation numbers.
Symbols: FILL IN how the letters of the paper become arguments, such as r → `keep_ratio`.
Departs: FILL IN each departure from the paper, numbered, or write "nowhere known".
"""

from __future__ import annotations

$imports


@dataclass(frozen=True)
class $class_name(Technique):
    """$name.

    FILL IN its parameters as fields, with the names and defaults of the entry, and refuse what is out of range.
    """

    acts_at: ClassVar = ($positions,)
    needs: ClassVar = ()  # FILL IN the same as in the entry

$methods
''')

METHOD = Template('''\
    $signature:
        """$doc"""
        $body''')

TEST = Template('''\
"""$name."""

from __future__ import annotations

import pytest
import torch

from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.techniques.$package.$module import $class_name


def test_a_case_worked_by_hand() -> None:
    pytest.fail("FILL IN tensors small enough to work the paper's equations on paper, and what must come out")


def test_the_neutral_setting_changes_nothing(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    plain, neutral = lvlm.run(request), lvlm.run(request, [$class_name()])  # FILL IN the neutral setting
    assert torch.equal(plain.tokens_N, neutral.tokens_N)
    torch.testing.assert_close(plain.logits_NC, neutral.logits_NC)
''')

SYSTEM = Template("""\
# yaml-language-server: $$schema=../../taxonomy/schema/system.json
id: $id
$name_line
aliases: []
kind: $kind
summary: FILL IN, in one sentence, what it does and what that buys.
paper: $paper
${family_line}stages: ['FILL IN which of $stages']
modality: ['FILL IN which of $modalities']
lossless: FILL IN true or false, whether each answer is the one that the model gives without it.
explanation: >-
  FILL IN how it works and why, in a paragraph.
policy: FILL IN a list of decisions, each with decides, rule and source.
resources: FILL IN a list of instances or shares of a device, each with name, stages and holds; or [].
communication: FILL IN a list of what a request moves, each with start, end, carries and byte; or [].
reported: []
relations: []
code: FILL IN released, partly-released or none.
verified: FILL IN one of $verifications, against which the record was checked.
updated: '$today'
""")
"""The record of a serving system, or of a lossless feature of engines, which no reference runs."""
