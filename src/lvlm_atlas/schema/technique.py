"""An entry of the catalog: one technique, as one paper describes it and one reference runs it."""

import math
import re
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from lvlm_atlas.schema.effect import Effect, Overhead
from lvlm_atlas.schema.elsewhere import Place, Shipped
from lvlm_atlas.schema.record import Day, Id, PaperKey, Record, Ref, Setting, Source, Text
from lvlm_atlas.schema.reported import Reported

_NUMBER = r"(?:-?inf|-?\d+(?:\.\d+)?)"
REFERENCE = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"
"""A class of an importable module."""
RANGE = re.compile(rf"^([\[(])\s*({_NUMBER})\s*,\s*({_NUMBER})\s*([\])])$")


class Parameter(Record):
    """A knob of a technique: an argument of its reference, of the same name."""

    symbol: Text | None = None
    """How the paper writes it."""
    type: Literal["int", "float", "bool", "choice", "ints", "floats"]
    """Kind of its values; `ints` and `floats` are lists of numbers, such as layers or ratios a layer."""
    default: Setting
    """The paper's, or its code's, default."""
    range: str | None = Field(default=None, pattern=RANGE.pattern)
    """Interval of legal values, as `[0, 1)`; `inf` is allowed. In a list it holds for each number."""
    choices: tuple[Setting, ...] = ()
    """The legal values, where they are few."""
    length: int | None = Field(default=None, ge=1)
    """How many numbers a list holds; absent means any number."""
    order: Literal["rising", "falling"] | None = None
    """Whether each number of a list is above, or below, the one before."""
    tried_up_to: float | None = None
    """Largest value that settings drawn from the range have, where larger ones only take longer; absent means any."""
    multiple_of: Text | None = None
    """Parameter of the entry whose multiple it must be; settings that are drawn keep to it."""
    unit: Text | None = None
    """Unit of its values; absent means a count or a share."""
    doc: Text
    """What it does."""

    @model_validator(mode="after")
    def _default_is_legal(self) -> Self:
        if self.type in _NUMBERS and not (self.range or self.choices):
            raise ValueError("has no `range` and no `choices`; give one, e.g. range: '[0, 1]'")
        if self.type == "choice" and not self.choices:
            raise ValueError("is a choice without `choices`; list them")
        if not self.is_list and (self.length is not None or self.order is not None):
            raise ValueError(f"is of type {self.type}, which has no `length` and no `order`; drop them")
        problem = self.problem_with(self.default)
        if problem:
            raise ValueError(f"default {problem}")
        return self

    @property
    def is_list(self) -> bool:
        """Whether its values are lists of numbers."""
        return self.type in ("ints", "floats")

    def problem_with(self, value: Setting) -> str | None:
        """Why `value` is illegal, or None if it is legal."""
        if self.choices and not any(value == choice and type(value) is type(choice) for choice in self.choices):
            return f"{value!r} is not one of {', '.join(map(str, self.choices))}"
        if not self.is_list:
            return self._problem_with_one(value)
        if not isinstance(value, tuple):
            return f"{value!r} is no list of numbers"
        if self.length is not None and len(value) != self.length:
            return f"{list(value)} holds {len(value)} numbers where {self.length} are wanted"
        if problem := next(filter(None, map(self._problem_with_one, value)), None):
            return problem
        steps = [after - before for before, after in pairwise(value)]
        if (self.order == "rising" and min(steps, default=1) <= 0) or (
            self.order == "falling" and max(steps, default=-1) >= 0
        ):
            return f"{list(value)} is not {self.order}"
        return None

    def _problem_with_one(self, value: Setting) -> str | None:
        """Why a single value, perhaps one of a list, is illegal."""
        kinds = _NUMBERS.get(self.type) or {"bool": (bool,), "choice": (bool, int, float, str)}[self.type]
        if not isinstance(value, kinds) or (self.type in _NUMBERS and isinstance(value, bool)):
            return f"{value!r} is not of type {self.type.removesuffix('s')}"
        match = RANGE.match(self.range) if self.range else None
        if match and isinstance(value, int | float):
            low, high = float(match[2]), float(match[3])
            inside = (value > low or (match[1] == "[" and value == low)) and (
                value < high or (match[4] == "]" and value == high)
            )
            if not inside or math.isnan(value):
                return f"{value!r} lies outside {self.range}"
        return None


_NUMBERS: dict[str, tuple[type, ...]] = {
    "int": (int,), "ints": (int,), "float": (int, float), "floats": (int, float),
}  # fmt: skip
"""Python types of a number, by the parameter's type."""


class Relief(Record):
    """A wall that the technique moves."""

    stage: Annotated[Id, Ref("stage")]
    """The stage that gets cheaper."""
    bound: Annotated[Id, Ref("bound")]
    """The resource that is saved there."""


class Interaction(Record):
    """A typed edge to another technique, with its reason."""

    kind: Annotated[Id, Ref("interaction")]
    """Kind of the edge, read from this entry to the target."""
    with_: Annotated[Id, Ref("technique")] = Field(alias="with")
    """The other technique."""
    reason: Text
    """Why, in one or two sentences."""
    evidence: Literal["reported", "reasoned"]
    """`reported`: the source states it. `reasoned`: it follows from the two mechanisms, no experiment."""
    source: Source
    """Where the statement, or the mechanism it is argued from, can be read."""


class Pitfall(Record):
    """A way to get the technique wrong, and the test that a wrong implementation fails."""

    mistake: Text
    """What goes wrong."""
    test: str = Field(pattern=r"^test_[a-z0-9_]+$")
    """Name of the test, in the technique's test file."""


class Step(Record):
    """One step of the algorithm."""

    does: Text
    """What happens, with shapes and formulas in the project's letters."""
    code: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$")
    """The function or method of the reference's module that does it."""


class Upstream(Record):
    """The authors' own code."""

    repository: str = Field(pattern=r"^[A-Za-z0-9-]+/[A-Za-z0-9._-]+$")
    """`owner/name` on GitHub."""
    license: Text | None = None
    """Its licence; absent means that it names none."""
    commit: str | None = Field(default=None, pattern=r"^[0-9a-f]{7,40}$")
    """The commit that was read."""


class Technique(Record):
    """One technique. Everything here is authored; what can be computed is computed."""

    id: Id
    """Permanent id, equal to the file's name."""
    name: Text
    """The technique's own name."""
    aliases: tuple[Text, ...] = ()
    """Other names and spellings that people search for."""
    summary: Text = Field(max_length=280)
    """What it does and what that buys, in one sentence."""
    paper: PaperKey
    """The work that introduces it."""
    also: tuple[PaperKey, ...] = ()
    """Further works that define it."""
    stage: Annotated[Id, Ref("stage")]
    """The stage the survey files it under."""
    family: Annotated[Id, Ref("family")]
    """Its family, or subfamily where there is one."""
    also_in: tuple[Place, ...] = ()
    """Where else the survey treats it."""
    modality: tuple[Annotated[Id, Ref("modality")], ...] = Field(min_length=1)
    """Inputs it applies to."""
    training: Annotated[Id, Ref("training")]
    """What must be trained before it can be used."""
    query_aware: bool
    """Whether its choice depends on the prompt's text."""
    acts_at: tuple[Annotated[Id, Ref("position")], ...] = Field(min_length=1)
    """The extension points it uses, in pipeline order."""
    relieves: tuple[Relief, ...] = Field(min_length=1)
    """The walls it moves."""
    mechanism: tuple[Annotated[Id, Ref("mechanism")], ...] = Field(min_length=1)
    """How it saves."""
    signals: tuple[Annotated[Id, Ref("signal")], ...] = Field(min_length=1)
    """What it decides by."""
    needs: tuple[Annotated[Id, Ref("need")], ...] = ()
    """What must be there for it to work."""
    withholds: tuple[Annotated[Id, Ref("need")], ...] = ()
    """Needs that a technique which acts later, or after it at the same place, can no longer be given."""
    explanation: Text
    """How it works and why, in a paragraph."""
    algorithm: tuple[Step, ...] = Field(min_length=1)
    """The algorithm, step by step."""
    parameters: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], Parameter]
    """Its knobs, by the name of the reference's argument."""
    effects: tuple[Effect, ...] = Field(min_length=1)
    """What it does to the request's state."""
    overheads: tuple[Overhead, ...] = ()
    """What it costs."""
    interactions: tuple[Interaction, ...] = ()
    """How it gets along with others, as far as somebody wrote or argued it; rules derive more."""
    reported: tuple[Reported, ...] = ()
    """Numbers that sources report, an experiment at a time. Ours are in the measurements."""
    pitfalls: tuple[Pitfall, ...] = ()
    """Known ways to get it wrong."""
    status: Literal["implemented", "described"]
    """Whether a reference runs."""
    reference: str | None = Field(default=None, pattern=REFERENCE)
    """The torch reference as `module:Class`; it may lie in a package of your own, which only runs import."""
    neutral: dict[str, Setting] | None = None
    """A setting under which the run equals the run without the technique."""
    no_neutral: Text | None = None
    """Why no setting leaves the run as it is, in place of `neutral`: the technique replaces a module, say."""
    trials: tuple[dict[str, Setting], ...] = ()
    """Settings under which it bites on the tiny model; smoke and conformance run them."""
    upstream: Upstream | None = None
    """The authors' code."""
    shipped_in: tuple[Shipped, ...] = ()
    """Engines and toolkits whose released code has it."""
    verified: Annotated[Id, Ref("verification")]
    """Against what the entry was checked."""
    updated: Day
    """Day of the last change of substance, quoted, as `'2026-11-22'`."""

    def __repr__(self) -> str:
        return f"<Technique {self.id}: {self.summary}>"

    __str__ = __repr__

    def _repr_markdown_(self) -> str:
        return f"**{self.name}** (`{self.id}`, {self.stage}): {self.summary}"

    @field_validator("summary")
    @classmethod
    def _is_a_sentence(cls, text: str) -> str:
        if not text.endswith((".", "!", "?")):
            raise ValueError("is not a sentence; end it with a full stop")
        return text

    @model_validator(mode="after")
    def _effects_are_where_it_acts(self) -> Self:
        for effect in self.effects:
            at = getattr(effect, "at", None)
            if at is not None and at not in self.acts_at:
                raise ValueError(
                    f"an effect on {effect.quantity!r} is `at: {at}`; name one of {', '.join(self.acts_at)}"
                )
        return self

    @model_validator(mode="after")
    def _multiples_are_of_parameters(self) -> Self:
        for name, parameter in self.parameters.items():
            if (of := parameter.multiple_of) is None:
                continue
            unit = self.parameters.get(of)
            if of == name or unit is None or {unit.type, parameter.type} != {"int"}:
                raise ValueError(f"parameter {name!r} has `multiple_of: {of}`; name another whole-number parameter")
            if int(str(parameter.default)) % int(str(unit.default)):
                raise ValueError(f"the default of {name!r} is no multiple of that of {of!r}; correct one of the two")
        return self

    @model_validator(mode="after")
    def _implemented_runs(self) -> Self:
        if self.status == "implemented":
            missing = [] if self.reference else ["reference"]
            missing += [] if self.neutral is not None or self.no_neutral else ["neutral"]
            missing += [] if self.trials else ["trials"]
            if missing:
                raise ValueError(f"is implemented but lacks {', '.join(f'`{key}`' for key in missing)}")
        elif self.reference:
            raise ValueError("has a `reference` but is only described; set `status: implemented`")
        if self.neutral is not None and self.no_neutral:
            raise ValueError("has both `neutral` and `no_neutral`; keep one")
        return self


class Moved(Record):
    """An id that forwards: the technique was renamed."""

    id: Id
    """The old id, equal to the file's name."""
    moved: Annotated[Id, Ref("technique")]
    """The new id."""


class Split(Record):
    """An id that forwards: the technique was split into several."""

    id: Id
    """The old id, equal to the file's name."""
    split: tuple[Annotated[Id, Ref("technique")], ...] = Field(min_length=2)
    """The ids it was split into."""
