"""Models hang together: counts add up, layers exist, widths meet, and token rules give the worked examples."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lvlm_atlas.atlas.loader import Inspection
from lvlm_atlas.atlas.yaml_subset import Loc
from lvlm_atlas.fault import suggestion
from lvlm_atlas.roofline.tokens import rules as token_rules
from lvlm_atlas.roofline.visual import Visual
from lvlm_atlas.rules.rule import Finding, rule
from lvlm_atlas.rules.sample import MODEL
from lvlm_atlas.schema.model import Model, TokenExample, Tokens, Traced
from lvlm_atlas.schema.model import Rule as TokenRule


@rule(
    id="parameters-add-up",
    message="the parts have {parts} parameters together, the total says {total}",
    repair="correct the part or the total",
    why="Memory is estimated from the parts and compared with the total.",
    example=lambda files: files[MODEL]["params"].update(total=1100),
)
def parameters_add_up(inspection: Inspection) -> Iterator[Finding]:
    """Models."""
    for path, model in inspection.of(Model):
        params = model.params
        parts = params.vision + params.adapter + params.llm
        if parts != params.total:
            yield Finding(path=path, loc=("params", "total"), words={"parts": parts, "total": params.total})


@rule(
    id="layer-beyond-model",
    message="`{key}` names layer {layer}, but there are {layers}, counted from 0",
    repair="name a layer that exists",
    why="The layer would be skipped, and its cost with it.",
    example=lambda files: files[MODEL]["llm"].update(cross_attention_layers=[4]),
)
def layer_beyond_model(inspection: Inspection) -> Iterator[Finding]:
    """Layers that models single out, and the number of encoder layers that are needed."""
    for path, model in inspection.of(Model):
        vision, llm = model.vision, model.llm
        window, sliding = vision.window, llm.sliding_window
        named: list[tuple[Loc, int, tuple[int, ...]]] = [
            (("vision", "layers_needed"), vision.layers, (vision.layers_needed - 1,)),
            (("vision", "window"), vision.layers, window.full_attention_layers if window else ()),
            (("vision", "deepstack_layers"), vision.layers, vision.deepstack_layers),
            (("llm", "sliding_window"), llm.layers, sliding.global_layers if sliding else ()),
            (("llm", "cross_attention_layers"), llm.layers, llm.cross_attention_layers),
        ]
        for loc, layers, indices in named:
            for layer in indices:
                if layer >= layers:
                    words = {"key": loc[-1], "layer": layer, "layers": layers}
                    yield Finding(path=path, loc=loc, words=words)


@rule(
    id="adapter-meets-llm",
    message="the adapter writes rows of width {width}, the language model reads {hidden}",
    repair="correct `adapter.widths` or `llm.hidden`",
    why="Vision tokens enter the language model at its width.",
    example=lambda files: files[MODEL]["adapter"].update(widths=[32, 65]),
)
def adapter_meets_llm(inspection: Inspection) -> Iterator[Finding]:
    """Models."""
    for path, model in inspection.of(Model):
        width, hidden = model.adapter.widths[-1], model.llm.hidden
        if width != hidden:
            yield Finding(path=path, loc=("adapter", "widths"), words={"width": width, "hidden": hidden})


@rule(
    id="token-rule",
    message="{problem}",
    repair="{hint}",
    why="Without its rule no request to the model can be estimated.",
    example=lambda files: files[MODEL]["tokens"]["image"].update(rule="fixt"),
)
def token_rule(inspection: Inspection) -> Iterator[Finding]:
    """Rules that models name: they exist, are of the right kind, and take the arguments given."""
    for path, model in inspection.of(Model):
        for key, problem, hint in _unfit(model.tokens):
            yield Finding(path=path, loc=("tokens", key), words={"problem": problem, "hint": hint})


@rule(
    id="token-examples",
    message="{what}: the rule gives {got}, the record says {want}",
    repair="correct the record, or the rule in lvlm_atlas.roofline.tokens",
    why="An error in the number of tokens is an error in every estimate.",
    example=lambda files: files[MODEL]["tokens"]["examples"][0].update(llm_tokens=5),
)
def token_examples(inspection: Inspection) -> Iterator[Finding]:
    """Worked examples and traced runs. Silent where the rule itself does not fit, which another rule tells."""
    for path, model in inspection.of(Model):
        if any(_unfit(model.tokens)):
            continue
        for loc, record, counted in _cases(model):
            for key, count in _COUNTS.items():
                want = getattr(record, key, None)
                got = count(counted) if isinstance(counted, Visual) else counted
                if want is not None and got != want:
                    yield Finding(path=path, loc=(*loc, key), words={"what": key, "got": got, "want": want})


_COUNTS: Mapping[str, Callable[[Visual], int]] = {
    "vit_tokens": lambda visual: visual.encoder_token,
    "window_pairs": lambda visual: sum(each.sequences * (each.window_pair or 0) for each in visual.patches),
    "adapter_tokens": lambda visual: visual.adapter_token,
    "llm_tokens": lambda visual: visual.llm_token,
    "cross_tokens": lambda visual: visual.cross_token,
}
"""What a record may say of an input, as the engine counts it."""


def _cases(model: Model) -> Iterator[tuple[Loc, TokenExample | Traced, Visual | str]]:
    """Every input of which a model's record says what it becomes: its place, what it says, what the rule makes."""
    image, video = model.tokens.image, model.tokens.video
    for index, example in enumerate(model.tokens.examples):
        clip = example.video
        if clip is None:
            counted = _count_by(image, example.params, [example.image])
        elif video is None:
            counted = "nothing, since the model takes no video"
        else:
            counted = _count_by(video, example.params, clip.width, clip.height, clip.frames)
        yield ("tokens", "examples", index), example, counted
    if model.traced:
        yield ("traced",), model.traced, _count_by(image, model.traced.params, [model.traced.image])


def _count_by(named: TokenRule, params: Mapping[str, Any], *arguments: Any) -> Visual | str:
    """What a rule makes of its arguments, or its error."""
    try:
        return token_rules()[named.rule](*arguments, **{**named.params, **params})
    except (ValueError, TypeError, ArithmeticError) as error:
        return f"an error ({error})"


def _unfit(tokens: Tokens) -> Iterator[tuple[str, str, str]]:
    """Why a model's rules cannot be called: which of the two, the problem, the repair."""
    for key, named, arguments in (("image", tokens.image, 1), ("video", tokens.video, 3)):
        if named is None:
            continue
        known = [name for name in token_rules() if name.startswith("video_") == (key == "video")]
        if named.rule not in known:
            yield key, f"there is no token rule {named.rule!r} for a {key}", suggestion(named.rule, known)
            continue
        signature = inspect.signature(token_rules()[named.rule])
        try:
            signature.bind(*range(arguments), **named.params)
        except TypeError as error:
            takes = ", ".join(list(signature.parameters)[arguments:])
            yield key, f"{named.rule} does not take these arguments: {error}", f"it takes {takes}"
