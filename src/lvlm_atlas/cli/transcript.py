"""What commands print, for the guides of the site: lists of lines in, what each prints out.

`python -m lvlm_atlas.cli.transcript COLUMNS` reads a JSON list of command lines, and writes one of exit codes, standard
output and standard error. It runs them in one process, which a command alone takes most of its time to start.
"""

from __future__ import annotations

import json
import os
import sys

from lvlm_atlas.cli.in_page import run

if __name__ == "__main__":
    os.environ["NO_COLOR"] = "1"
    columns, lines = int(sys.argv[1]), json.load(sys.stdin)
    json.dump([run(line, columns) for line in lines], sys.stdout)
