"""Models hang together: counts add up, layers exist, widths meet, and token rules give the worked examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from operator import mul
from typing import Any

from lvlm_atlas.atlas.loader import Inspection
from lvlm_atlas.atlas.yaml_subset import Loc
from lvlm_atlas.fault import AtlasError, suggestion
from lvlm_atlas.roofline.tokens import rules as token_rules
from lvlm_atlas.roofline.tokens import unfit_arguments
from lvlm_atlas.roofline.visual import Visual
from lvlm_atlas.roofline.weights import given_types
from lvlm_atlas.rules.rule import Finding, rule
from lvlm_atlas.rules.sample import MODEL
from lvlm_atlas.schema.llm import Llm
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
    id="parameters-of-shapes",
    message="{part} has {stated:,} parameters, but matrices of its shapes alone have {counted:,}",
    repair="correct the shapes or `params.{part}`, which is at most {slack:.1%} more",
    why="Estimates take memory from the parameters and time from the shapes; one of the two would be wrong.",
    example=lambda files: files[MODEL]["llm"].update(layers=3),
)
def parameters_of_shapes(inspection: Inspection) -> Iterator[Finding]:
    """Models: what is stated of each part is at least its matrices, and little more: biases, norms, positions."""
    for path, model in inspection.of(Model):
        for part, counted, slack in _matrices(model):
            stated = getattr(model.params, part)
            if not counted <= stated <= counted * (1 + slack):
                words = {"part": part, "stated": stated, "counted": counted, "slack": slack}
                yield Finding(path=path, loc=("params", part), words=words)


def _matrices(model: Model) -> Iterator[tuple[str, int, float]]:
    """Parameters in the matrices of each part, and how much more of them a model can have, as a share."""
    vision, adapter, llm = model.vision, model.adapter, model.llm
    attention = 4 * vision.hidden * vision.heads * vision.head_dim
    mlp = (2 + vision.gated_mlp) * vision.hidden * vision.mlp
    patch = 3 * vision.patch_size**2 * vision.temporal_patch_size * vision.hidden
    if front := vision.front:
        layers = front.layers * (4 * front.hidden**2 + 2 * front.hidden * front.mlp)
        kernels = sum(each.kernel**2 * each.into * each.out for each in front.convolutions)
        patch = 3 * front.patch_size**2 * front.hidden + layers + kernels
    yield "vision", vision.layers * (attention + mlp) + patch, 0.12  # tables of positions, some for tiles
    if not adapter.queries:
        products = [*map(mul, adapter.widths, adapter.widths[1:])]
        gate = products[-2] if adapter.gated and len(products) > 1 else 0
        if adapter.pools_by_attention:  # keys and values beside the query, and the projection of what comes out
            gate += 2 * products[0] + adapter.widths[1] ** 2
        yield "adapter", adapter.copies * (sum(products) + gate), 0.02
    experts, dense = llm.experts, 3 * llm.hidden * llm.intermediate
    linear = llm.linear_attention
    full = len(linear.full_attention_layers) if linear else llm.layers
    of_layers = full * _attention(llm) + _wider(llm) + llm.layers * dense
    if linear:
        value = linear.value_heads * linear.value_dim
        inner = 2 * linear.key_heads * linear.key_dim + 3 * value + 2 * linear.value_heads
        of_layers += (llm.layers - full) * llm.hidden * inner
    if experts:
        chosen = (experts.routed + experts.shared) * 3 * llm.hidden * experts.intermediate + experts.routed * llm.hidden
        of_layers += (llm.layers // experts.step - experts.dense_layers // experts.step) * (chosen - dense)
    of_layers += _of_inputs(llm) - _of_shared_cache(llm)
    yield "llm", of_layers + llm.vocab * llm.hidden * (2 - llm.tied_embeddings), 0.005


def _of_inputs(llm: Llm) -> int:
    """Parameters of what each layer gets beside the hidden states: the table, and three matrices a layer."""
    given = llm.layer_inputs
    return llm.layers * given.width * (given.vocab + 3 * llm.hidden) if given else 0


def _of_shared_cache(llm: Llm) -> int:
    """Parameters that layers without a cache of their own lack: keys and values, less what their MLP has more."""
    shared = llm.shared_cache
    if shared is None:
        return 0
    wide, window = llm.global_attention, llm.sliding_window
    keys = [2 * llm.kv_heads * llm.head_dim] * llm.layers
    for layer in window.global_layers if wide and window else ():
        keys[layer] = (1 if wide.shared_projection else 2) * wide.kv_heads * wide.head_dim if wide else 0
    more = 3 * ((shared.intermediate or llm.intermediate) - llm.intermediate)
    return llm.hidden * (sum(keys[-shared.layers :]) - shared.layers * more)


def _wider(llm: Llm) -> int:
    """Parameters that layers attending to everything have beyond the others, in their attention."""
    wide, window = llm.global_attention, llm.sliding_window
    if wide is None or window is None:
        return 0
    keys = (1 if wide.shared_projection else 2) * wide.kv_heads
    each = llm.hidden * (2 * llm.heads + keys) * wide.head_dim
    return len(window.global_layers) * (each - _attention(llm))


def _attention(llm: Llm) -> int:
    """Parameters in the matrices of a layer's attention."""
    latent = llm.mla
    if latent is None:
        return llm.hidden * ((2 + llm.output_gate) * llm.heads + 2 * llm.kv_heads) * llm.head_dim
    key, value = latent.nope_dim + latent.rope_dim, latent.nope_dim + latent.v_dim
    through = latent.q_lora_rank
    query = through * (llm.hidden + llm.heads * key) if through else llm.hidden * llm.heads * key
    cached = llm.hidden * (latent.kv_lora_rank + latent.rope_dim) + latent.kv_lora_rank * llm.heads * value
    return query + cached + llm.heads * latent.v_dim * llm.hidden


@rule(
    id="heads-fill-the-encoder",
    message="{heads} heads of width {width} are {product} wide together, `vision.hidden` is {hidden}",
    repair="correct the heads, their width, or the hidden width",
    why="No encoder that records describe has heads of another width, and its attention would be counted wrong.",
    example=lambda files: files[MODEL]["vision"].update(head_dim=7),
)
def heads_fill_the_encoder(inspection: Inspection) -> Iterator[Finding]:
    """Models. Language models may have heads that are wider or narrower together."""
    for path, model in inspection.of(Model):
        vision = model.vision
        product = vision.heads * vision.head_dim
        if product != vision.hidden:
            words = {"heads": vision.heads, "width": vision.head_dim, "product": product, "hidden": vision.hidden}
            yield Finding(path=path, loc=("vision", "heads"), words=words)


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
        window, sliding, linear = vision.window, llm.sliding_window, llm.linear_attention
        named: list[tuple[Loc, int, tuple[int, ...]]] = [
            (("vision", "layers_needed"), vision.layers, (vision.layers_needed - 1,)),
            (("vision", "window"), vision.layers, window.full_attention_layers if window else ()),
            (("vision", "deepstack_layers"), vision.layers, vision.deepstack_layers),
            (("llm", "sliding_window"), llm.layers, sliding.global_layers if sliding else ()),
            (("llm", "cross_attention_layers"), llm.layers, llm.cross_attention_layers),
            (("llm", "linear_attention"), llm.layers, linear.full_attention_layers if linear else ()),
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
    example=lambda files: files[MODEL]["adapter"].update(widths=[32, 63]),
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
        elif (read := model.tokens.video_by.get(example.by) if example.by else video) is None:
            counted = f"nothing, since no rule of {example.by} is given" if example.by else "nothing: it takes no video"
        else:
            counted = _count_by(read, example.params, clip.width, clip.height, clip.frames)
        yield ("tokens", "examples", index), example, counted
    if model.traced:
        yield ("traced",), model.traced, _count_by(image, model.traced.params, [model.traced.image])


def _count_by(named: TokenRule, params: Mapping[str, Any], *arguments: Any) -> Visual | str:
    """What a rule makes of its arguments, or its error."""
    try:
        return token_rules()[named.rule](*arguments, **{**named.params, **params})
    except (ValueError, TypeError, ArithmeticError, MemoryError) as error:
        return f"an error ({error})"


def _unfit(tokens: Tokens) -> Iterator[tuple[str, str, str]]:
    """Why a model's rules cannot be called: which of the two, the problem, the repair."""
    others = (("video_by", each, 3) for each in tokens.video_by.values())
    for key, named, arguments in (("image", tokens.image, 1), ("video", tokens.video, 3), *others):
        if named is None:
            continue
        known = [name for name in token_rules() if name.startswith("video_") == (key != "image")]
        if named.rule not in known:
            kind = key.partition("_")[0]
            yield key, f"there is no token rule {named.rule!r} for a {kind}", suggestion(named.rule, known)
            continue
        of_examples = [each.params for each in tokens.examples if _is_about(each, key)]
        settings = (named.params, *({**named.params, **own} for own in of_examples))
        for fault in dict.fromkeys(f for params in settings for f in unfit_arguments(named.rule, arguments, params)):
            problem, _, hint = fault.rpartition("; ")
            yield key, problem, hint


def _is_about(example: TokenExample, key: str) -> bool:
    """Whether an example is about the rule at that place."""
    return key == ("image" if example.image else "video_by" if example.by else "video")


@rule(
    id="weight-types",
    message="the weights have no such types: {problem}",
    repair="write it as `--weight-dtype` takes it, such as llm=int4-g128",
    why="Estimates take the types of a quantised checkpoint's weights from there.",
    example=lambda files: files[MODEL].update(weight_dtype="lmm=int4"),
)
def weight_types(inspection: Inspection) -> Iterator[Finding]:
    """Models that are released quantised."""
    for path, model in inspection.of(Model):
        if model.weight_dtype is None:
            continue
        try:
            given_types(model.weight_dtype)
        except AtlasError as error:
            yield Finding(path=path, loc=("weight_dtype",), words={"problem": str(error).partition("; ")[0]})
