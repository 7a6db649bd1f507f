"""The command line. Importing it loads no torch; each command imports what it needs."""

from __future__ import annotations

import os
import sys
import warnings
from typing import NoReturn

from ebbflow.cli.app import run_app


def main() -> NoReturn:
    """Run the command line of this process; every error that a user can mend is one sentence and exit code 2."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started this, and its number would be the next file's
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    plain = warnings.formatwarning
    warnings.formatwarning = lambda message, category, *more: (
        f"ebbflow: {message}\n" if category is UserWarning else plain(message, category, *more)
    )
    sys.exit(run_app(sys.argv[1:]))
