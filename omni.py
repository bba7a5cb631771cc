"""`python -m omni`: the command line, which lives in cli/."""

import os
import sys

from cli.main import main


def replace_closed_streams() -> None:
    """Under cron and some supervisors a stream may be closed; Python then has None in its place."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))


if __name__ == "__main__":
    replace_closed_streams()
    main(prog_name="omni")
