"""The JSON Schemas that editors read while an entry is written. Committed, so that a fresh checkout completes keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lvlm_atlas.atlas.loader import inspect
from lvlm_atlas.atlas.records import SCHEMAS, TAXONOMY
from lvlm_atlas.atlas.root import authored_root, data_root
from lvlm_atlas.fault import FaultsError
from lvlm_atlas.files import replace_file
from lvlm_atlas.schema.calibration import Calibration
from lvlm_atlas.schema.curve import Curve
from lvlm_atlas.schema.export import json_schema
from lvlm_atlas.schema.hardware import Hardware
from lvlm_atlas.schema.measurement import Measurement
from lvlm_atlas.schema.model import Model
from lvlm_atlas.schema.runtime import Runtime
from lvlm_atlas.schema.stack import MeasuredStack
from lvlm_atlas.schema.survey_list import SurveyList
from lvlm_atlas.schema.system import System
from lvlm_atlas.schema.technique import Technique
from lvlm_atlas.schema.timing import Timings
from lvlm_atlas.schema.traffic import Traffic
from lvlm_atlas.schema.vocabulary import AnyVocabulary
from lvlm_atlas.schema.workload import Workload

_KINDS: dict[str, Any] = {
    "technique": Technique, "vocabulary": AnyVocabulary, "measurement": Measurement,
    "model": Model, "hardware": Hardware, "workload": Workload, "system": System,
    "list": SurveyList, "runtime": Runtime, "timing": Timings,
    "calibration": Calibration, "traffic": Traffic,
    "curve": Curve, "stack": MeasuredStack,
}  # fmt: skip


def editor_schemas(root: Path | None = None) -> dict[Path, str]:
    """Text of each schema file, by its path relative to the root.

    Raises:
        FaultsError: the taxonomy has faults, so its terms are not known.
    """
    inspection = inspect(root)
    faults = [fault for fault in inspection.faults if fault.path.is_relative_to(TAXONOMY)]
    if faults:
        raise FaultsError(faults)
    vocabularies = inspection.atlas.vocabularies
    return {
        SCHEMAS / f"{name}.json": json.dumps(json_schema(kind, vocabularies), indent=1, ensure_ascii=False) + "\n"
        for name, kind in _KINDS.items()
    }


def write_editor_schemas(root: Path | None = None) -> tuple[Path, ...]:
    """Write the schema files under the root and return their paths.

    Raises:
        AtlasError: the data belong to the installed package.
        FaultsError: the taxonomy has faults.
    """
    root = root or data_root()
    own = authored_root(root)
    texts = editor_schemas(root)
    (own / SCHEMAS).mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        replace_file(own / path, text)
    return tuple(texts)
