"""Videos of families that see each frame as one square tile."""

from __future__ import annotations

from lvlm_atlas.roofline.tokens.shapes import tiles
from lvlm_atlas.roofline.tokens.sizes import checked_video
from lvlm_atlas.roofline.visual import Visual


def video_frames_as_tiles(
    width: int,
    height: int,
    frames: int,
    *,
    tile: int,
    patch: int,
    class_token: bool,
    token_per_frame: int,
    adapter_token_per_frame: int | None = None,
    newline_token: int = 0,
) -> Visual:
    """Each frame becomes one square tile, whatever its size.

    Args:
        width: pixels of the source.
        height: pixels of the source.
        frames: frames already sampled.
        tile: side in pixels that frames are padded or squashed to.
        patch: side of a patch in pixels.
        class_token: whether the encoder adds one to each tile.
        token_per_frame: tokens of a frame in the LLM.
        adapter_token_per_frame: rows that the adapter writes for a frame, where pooling comes after it: 729 in
            LLaVA-OneVision, of which 196 remain; None: `token_per_frame`.
        newline_token: learned vectors at the end of the video: 1 in LLaVA-OneVision.

    Raises:
        AtlasError: a size or number of frames that no video has.

    Source: InternVL's demo code, transformers llava_onevision and smolvlm, NVILA, Gemma-3.
    """
    checked_video(width, height, frames)
    adapter = token_per_frame if adapter_token_per_frame is None else adapter_token_per_frame
    return Visual(
        tiles(frames, tile=tile, patch=patch, class_token=class_token),
        frames * adapter,
        frames * token_per_frame + newline_token,
        frames=frames,
    )
