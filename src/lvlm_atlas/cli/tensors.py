"""What commands that run references need."""

from __future__ import annotations

from lvlm_atlas.fault import AtlasError


def need_torch(what: str, device: str) -> None:
    """Make sure that references can run here.

    Raises:
        AtlasError: torch or the GPU is missing; `what` says who needs it, as in `smoke tests need`.
    """
    try:
        import psutil  # noqa: F401
        import torch
    except ImportError:
        raise AtlasError(
            f"{what} torch; install it with: pip install 'lvlm-atlas[torch]', in a checkout '.[torch]'"
        ) from None
    if device == "cuda" and not torch.cuda.is_available():
        raise AtlasError("--device cuda: torch sees no CUDA device here; run on a machine with one, or leave it out")
