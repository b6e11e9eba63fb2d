"""Which class a technique's entry names for running it, found without importing it."""

from __future__ import annotations

from importlib.util import find_spec

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.schema.technique import Technique


def reference_of(technique: Technique) -> str:
    """The reference of a technique, as `module:Class`.

    Only its top-level package is looked for: finding a module inside it would import the package, which only the
    processes that run it do.

    Raises:
        AtlasError: the technique is only described, or the package is not installed.
    """
    if technique.reference is None:
        raise AtlasError(f"{technique.id} is only described, it has no reference to run; leave it out")
    package = technique.reference.partition(":")[0].partition(".")[0]
    if find_spec(package) is None:
        raise AtlasError(
            f"{technique.id}: its reference {technique.reference} needs the package {package!r}, which is not "
            f"installed; install it, or put the folder that holds it on PYTHONPATH"
        )
    return technique.reference
