"""The command line: parse, call, print. Faults of the user's become a line and an exit code, never a traceback."""

from __future__ import annotations

import gc
import os
import sys


def main() -> None:
    """Run `lvlm-atlas`. Exit codes: 0 done, 1 faults or an empty answer, 2 bad usage, 130 interrupted."""
    # Imports and loading make many objects and little garbage; at Python's threshold the collector scans them
    # again and again, a tenth of the time that a short command takes.
    gc.set_threshold(50_000)
    # Our records use no plugin of pydantic's, and looking for some in every installed package takes its time.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    from lvlm_atlas.cli.app import app
    from lvlm_atlas.fault import AtlasError

    try:
        app()
    except AtlasError as error:
        sys.stderr.write(f"{error}\n" if error.exit_code == 1 else f"lvlm-atlas: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader has gone; what is still buffered must not raise again when Python closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
