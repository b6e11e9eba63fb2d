"""A checkpoint's own tokenizer and image processor, from its folder alone; nothing is fetched."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lvlm_atlas.reference.lvlm.model import LVLM
from lvlm_atlas.reference.lvlm.request import Request


class Processor:
    """From images and words to a request, and from tokens to words.

    Raises:
        ImportError: transformers or Pillow is not installed.
        ValueError: the folder holds no processor.
    """

    def __init__(self, folder: Path) -> None:
        transformers: Any = import_module("transformers")  # an extra, and untyped
        transformers.utils.logging.set_verbosity_error()
        try:
            self._published: Any = transformers.AutoProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"{folder}: holds no processor that can be read: {_first_line(error)}") from None
        if not hasattr(self._published, "image_processor"):
            raise ValueError(f"{folder}: its processor takes no images; give a folder with preprocessor_config.json")

    def request(self, lvlm: LVLM, images: Sequence[Path], prompt: str, max_new_tokens: int) -> Request:
        """A greedy request about the images, in the chat form of the checkpoint where it has one.

        Raises:
            ValueError: a file is no image.
        """
        processed = self._published(
            images=[_picture(path) for path in images], text=self._text(prompt, len(images)), return_tensors="pt"
        )
        fields: dict[str, Tensor] = {key: value for key, value in processed.items() if isinstance(value, Tensor)}
        ids_N = fields.pop("input_ids")[0]
        fields.pop("attention_mask", None)
        fields.pop("token_type_ids", None)
        return Request(
            frames_F3HW=torch.cat(lvlm.dialect.clips(**fields)),
            prompt_N=lvlm.dialect.collapse(ids_N),
            image_token_id=lvlm.config.image_token_id,
            max_new_tokens=max_new_tokens,
        )

    def words(self, tokens_N: Tensor) -> str:
        """The text of generated tokens, special ones left out."""
        text: str = self._published.decode(tokens_N.tolist(), skip_special_tokens=True)
        return text.strip()

    def _text(self, prompt: str, images: int) -> str:
        if getattr(self._published, "chat_template", None):
            content = [{"type": "image"}] * images + [{"type": "text", "text": prompt}]
            said: str = self._published.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
            return said
        marks = "" if self._published.image_token in prompt else f"{self._published.image_token}\n" * images
        return marks + prompt


def _picture(path: Path) -> Any:
    from PIL import Image  # noqa: PLC0415 - an extra

    try:
        with Image.open(path) as file:
            return file.convert("RGB")
    except OSError as error:
        raise ValueError(f"{path}: is no image that can be read: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
