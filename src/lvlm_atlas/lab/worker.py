"""The process that carries out one job: `python -m lvlm_atlas.lab.worker MODULE:FUNCTION JOB ANSWER`.

The function makes an answer of a job; its annotation says of which kind. The process stands alone, so that a
reference that hangs, eats memory or exits takes nothing else down.
"""

from __future__ import annotations

import pkgutil
import sys
from pathlib import Path
from typing import get_type_hints

import torch

if __name__ == "__main__":
    torch.set_num_threads(1)  # several workers run side by side
    task = pkgutil.resolve_name(sys.argv[1])
    job_file, answer_file = map(Path, sys.argv[2:])
    answer = task(get_type_hints(task)["job"].model_validate_json(job_file.read_bytes()))
    answer_file.write_text(answer.model_dump_json(by_alias=True), encoding="utf-8")
