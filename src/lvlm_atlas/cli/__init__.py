"""The command line: parse, call, print. Faults of the user's become a line and an exit code, never a traceback."""

from __future__ import annotations

import codecs
import contextlib
import gc
import io
import os
import sys
from typing import NoReturn


def main() -> None:
    """Run `lvlm-atlas`. Exit codes: 0 done, 1 faults or an empty answer, 2 bad usage, 130 interrupted."""
    # Imports and loading make many objects and little garbage; at Python's threshold the collector scans them
    # again and again, a tenth of the time that a short command takes.
    gc.set_threshold(200_000)
    # Our records use no plugin of pydantic's, and looking for some in every installed package takes its time.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    _prepare_streams()
    from typer import BadParameter

    from lvlm_atlas.cli.app import application
    from lvlm_atlas.fault import AtlasError

    completing = "_LVLM_ATLAS_COMPLETE" in os.environ
    if len(sys.argv) == 1 and not completing:
        sys.argv.append("--help")
    if sys.argv[1:2] == ["help"]:
        sys.argv[1:] = [*sys.argv[2:], "--help"]
    usage_error = BadParameter.__mro__[1]  # of every wrong command line; typer's public name for it has changed
    try:
        with _words_completed() if completing else contextlib.nullcontext():
            code = application(_command())(standalone_mode=False)
        sys.stdout.flush()
        gc.freeze()  # what is left need not be searched for cycles when Python ends
        sys.exit(code)
    except AtlasError as error:
        _refuse(str(error), error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        _drop_output()  # the reader has gone
        sys.exit(141)
    except OSError as error:
        _drop_output()
        where = error.filename or "the output"
        _refuse(f"cannot read or write {where}: {(error.strerror or str(error)).lower()}", 1)
    except Exception as error:
        if not isinstance(error, usage_error):
            raise
        _refuse(" ".join(error.format_message().split()), 2)  # type: ignore[attr-defined]


def _prepare_streams() -> None:
    """Print in whatever encoding the terminal has; a closed stream is refused at once, or, for messages, dropped."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - for as long as we run
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
        _refuse("the output is closed; give it a place to be written to", 1)
    if os.environ.get("COLUMNS", "1").strip() in ("", "0"):
        del os.environ["COLUMNS"]  # help would fold itself away to nothing
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower() not in ("utf-8", "utf8"):
            codecs.register_error("lvlm_atlas", _plainly)
            stream.reconfigure(errors="lvlm_atlas")


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """Characters that an encoding lacks: a likeness, or else an escape that JSON too reads as the character."""
    assert isinstance(error, UnicodeEncodeError)  # noqa: S101 - we only ever write
    lacking = error.object[error.start : error.end]
    escaped = (_LIKENESS.get(each) or _json_escape(each) for each in lacking)
    return "".join(escaped), error.end


_LIKENESS = {
    "─": "-", "│": "|", "╭": "+", "╮": "+", "╰": "+", "╯": "+", "…": "...", "−": "-", "–": "-", "×": "x", "•": "*",
    "→": "->", "≤": "<=", "≥": ">=", "≈": "~", "“": '"', "”": '"', "’": "'", "█": "#",
}  # fmt: skip


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def _drop_output() -> None:
    """What is still buffered must not raise again when Python closes the stream."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _words_completed() -> contextlib.AbstractContextManager[None]:
    from lvlm_atlas.cli.shell_words import whole_words

    return whole_words()


def _command() -> str:
    """The command that is called, or about to be: bash hands the words over so while it completes."""
    completing = "_LVLM_ATLAS_COMPLETE" in os.environ
    words = (completing and os.environ.get("COMP_WORDS", "").split()) or sys.argv
    return "" if len(words) < 2 else words[1]


def _refuse(message: str, exit_code: int) -> NoReturn:
    """Say what is wrong on standard error, and where JSON was asked for also as an object on standard output."""
    if _asks_for_json(sys.argv):
        import json

        fault = {"error": {"message": message, "exit_code": exit_code}}
        sys.stdout.write(json.dumps(fault, ensure_ascii=False, indent=2) + "\n")
    if message:  # without a command, help has been printed
        sys.stderr.write(f"{message}\n" if exit_code == 1 else f"lvlm-atlas: {message}\n")
    sys.exit(exit_code)


def _asks_for_json(arguments: list[str]) -> bool:
    """Whether a command line, right or wrong, asks for JSON."""
    pairs = zip(arguments, [*arguments[1:], ""], strict=True)
    return any(
        word in ("--format=json", "-fjson", "--json") or (word in ("--format", "-f") and after == "json")
        for word, after in pairs
    )
