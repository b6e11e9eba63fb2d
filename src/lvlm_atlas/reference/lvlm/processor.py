"""A checkpoint's own tokenizer and image processor, from its folder alone; nothing is fetched."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor

from lvlm_atlas.reference.flow.request import Request
from lvlm_atlas.reference.lvlm.model import LVLM


class Processor:
    """From images and words to a request, and from tokens to words.

    The model puts vision tokens where a prompt has its one placeholder, so that the two parts of a published
    processor need nothing of each other.

    Raises:
        ImportError: transformers or Pillow is not installed.
        ValueError: the folder holds no tokenizer or no image processor.
    """

    def __init__(self, folder: Path) -> None:
        transformers: Any = import_module("transformers")  # an extra, and untyped
        transformers.utils.logging.set_verbosity_error()
        try:
            files_only = {"local_files_only": True, "trust_remote_code": False}
            self._words: Any = transformers.AutoTokenizer.from_pretrained(folder, **files_only)
            self._pixels: Any = transformers.AutoImageProcessor.from_pretrained(folder, **files_only)
        except Exception as error:  # noqa: BLE001 - what a broken file makes transformers raise is anything
            raise ValueError(f"{folder}: holds no processor that can be read: {_first_line(error)}") from None
        if not self._words.chat_template and (folder / "chat_template.json").is_file():  # as older folders have it
            template = json.loads((folder / "chat_template.json").read_text("utf-8"))
            self._words.chat_template = template.get("chat_template")

    def request(self, lvlm: LVLM, images: Sequence[Path], prompt: str, max_new_tokens: int) -> Request:
        """A greedy request about the images, in the chat form of the checkpoint where it has one.

        Raises:
            ValueError: a file is no image.
        """
        processed = self._pixels(images=[_picture(path) for path in images], return_tensors="pt")
        fields = {key: value for key, value in processed.items() if isinstance(value, Tensor)}
        placeholder = lvlm.config.image_token_id
        text = self._text(prompt, self._words.convert_ids_to_tokens(placeholder), len(images))
        return Request(
            frames_F3HW=lvlm.dialect.images(lvlm.dialect.clips(**fields)),
            prompt_N=self._words(text, return_tensors="pt")["input_ids"][0],
            image_token_id=placeholder,
            max_new_tokens=max_new_tokens,
        )

    def words(self, tokens_N: Tensor) -> str:
        """The text of generated tokens, special ones left out."""
        text: str = self._words.decode(tokens_N.tolist(), skip_special_tokens=True)
        return text.strip()

    def _text(self, prompt: str, mark: str, images: int) -> str:
        if not self._words.chat_template:
            return prompt if mark in prompt else f"{mark}\n" * images + prompt
        content = [{"type": "image"}] * images + [{"type": "text", "text": prompt}]
        text: str = self._words.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        return text


def _picture(path: Path) -> Any:
    from PIL import Image  # noqa: PLC0415 - an extra

    try:
        with Image.open(path) as file:
            return file.convert("RGB")
    except OSError as error:
        raise ValueError(f"{path}: is no image that can be read: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
