"""Changes of a number that each layer has for itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from lvlm_atlas.roofline.transform import Applied, Change, Names, value


def tokens_by_layer(vision: Sequence[float], text: Sequence[float]) -> Callable[[int, float], Names]:
    """What `N` and `N_v` stand for in a layer."""
    return lambda layer, _: {"N": vision[layer] + text[layer], "N_v": vision[layer]}


def by_layer(
    technique: Applied,
    change: Change,
    layers: Sequence[float],
    symbols: Names,
    local: Callable[[int, float], Names],
    *,
    whole: bool = True,
    flows: bool = False,
) -> list[float]:
    """A number in each layer after a change.

    Args:
        technique: the technique.
        change: what it changes.
        layers: the number in each layer, as the changes before left it.
        symbols: what the symbols stand for in all layers.
        local: those that stand for something else in a layer, from its index and the number there.
        whole: whether the number is a count.
        flows: whether what one layer removes is gone in all that follow.
    """
    names: Mapping[str, float] = {**symbols, **technique.parameters}
    uses: Collection[str] = getattr(change.amount, "names", ("l",)) if callable(change.amount) else ()
    last: tuple[float, Names] | None = None
    start = value(change.from_layer, names)
    end = len(layers) if change.to_layer is None else value(change.to_layer, names)
    gone, after = 0.0, []
    for layer, before in enumerate(layers):
        old = before - gone
        if start <= layer < end:
            own = local(layer, old) if uses else {}
            if last != (old, own) or "l" in uses:  # most layers are like the one before
                here = {**names, **own, **technique.parameters, "l": layer} if uses else {}
                new, last = change.apply(old, here, whole=whole), (old, own)
            if flows and change.how == "remove":
                gone += old - new
            old = new
        after.append(old)
    return after


def flowing(
    steps: Sequence[tuple[Applied, Change]], symbol: str, number: float, layers: int, symbols: Names
) -> list[float]:
    """A count that goes through layers, after each: what is removed in one is gone for those that follow.

    Several changes act in a layer, one after the other, and each sees what the others have removed up to there. With
    `by_layer` the second would find all layers as the first alone leaves them.

    Args:
        steps: what removes, in the order of the stack.
        symbol: what the count is called in amounts, such as `N_p`.
        number: the count that enters the first layer.
        layers: how many there are.
        symbols: what the other symbols stand for, in all layers.
    """
    after = []
    for layer in range(layers):
        for technique, change in steps:
            here = {**symbols, symbol: number, **technique.parameters, "l": layer}
            end = layers if change.to_layer is None else value(change.to_layer, here)
            if value(change.from_layer, here) <= layer < end:
                number = change.apply(number, here)
        after.append(number)
    return after
