"""The reference LVLM: LLaVA-1.5 in plain torch, with named extension points."""

from lvlm_atlas.reference.lvlm.model import LVLM
from lvlm_atlas.reference.lvlm.points import Stack
from lvlm_atlas.reference.lvlm.request import Request, Result, random_request
from lvlm_atlas.reference.lvlm.trace import Trace
from lvlm_atlas.reference.refusal import Refusal, StackError

__all__ = ["LVLM", "Refusal", "Request", "Result", "Stack", "StackError", "Trace", "random_request"]
