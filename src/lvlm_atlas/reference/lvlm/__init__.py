"""The reference LVLM: LLaVA-1.5 and -NeXT, Qwen2.5-VL and Qwen3-VL in plain torch, with named extension points."""

from lvlm_atlas.reference.flow.request import Request, Result
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.lvlm.model import LVLM
from lvlm_atlas.reference.lvlm.random_request import random_request
from lvlm_atlas.reference.lvlm.stack import Stack
from lvlm_atlas.reference.lvlm.stream import Stream
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.refusal import Refusal, StackError

__all__ = [
    "LVLM",
    "Refusal",
    "Request",
    "Result",
    "Stack",
    "StackError",
    "Stream",
    "Technique",
    "Trace",
    "random_request",
]
