"""What every record can do."""

import pickle
import sys
from types import FrameType

from lvlm_atlas import load

ATLAS = load().atlas


def test_tab_offers_fields_and_not_what_pydantic_has_besides() -> None:
    for record in (ATLAS.technique("fastv"), ATLAS.model("qwen2.5-vl-7b"), ATLAS.device("h200")):
        offered = set(dir(record))
        assert {*type(record).model_fields, "model_dump", "model_copy"} <= offered
        assert offered.isdisjoint({"dict", "json", "construct", "parse_obj", "model_validate"})


def test_a_pickled_record_is_the_same_record() -> None:
    for record in (*ATLAS.techniques.values(), ATLAS.model("qwen2.5-vl-7b")):
        again = pickle.loads(pickle.dumps(record))  # noqa: S301 - made here
        assert again == record
        assert again.model_dump_json() == record.model_dump_json()
        assert again.model_copy(update={"name": "other"}).name == "other"


def test_an_interrupt_cannot_come_while_pydantic_writes_a_record() -> None:
    """Within pydantic, only Python's functions hear Ctrl-C, and pydantic loses what they raise: it must call none."""
    calls = []

    def notice(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_back is not None and frame.f_back.f_code.co_name == "model_dump_json":
            calls.append(frame.f_code)

    for record in ATLAS.techniques.values():
        sys.setprofile(notice)
        try:
            record.model_dump_json(by_alias=True)
        finally:
            sys.setprofile(None)
    assert calls == []
