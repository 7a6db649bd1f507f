"""The commands, put together, and the one place where errors become sentences."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Sequence
from typing import Any

import typer

from ebbflow.cli.autoencoder import train_autoencoder
from ebbflow.cli.claims import claims
from ebbflow.cli.classify import train_classifier
from ebbflow.cli.compare import compare
from ebbflow.cli.edit import edit
from ebbflow.cli.evaluate import evaluate
from ebbflow.cli.inspect import doctor, info, list_names
from ebbflow.cli.invert import invert, reconstruct
from ebbflow.cli.likelihood import likelihood
from ebbflow.cli.plot import plot
from ebbflow.cli.sample import sample
from ebbflow.cli.search_grid import search_grid
from ebbflow.cli.train import train
from ebbflow.cli.verify import verify

UsageError: Any = typer.BadParameter.__bases__[0]  # click's, which typer has brought in in more than one way

app = typer.Typer(
    name="ebbflow",
    help="Train, sample, edit, measure and compare diffusion and flow-matching models.",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(train)
app.command("train-classifier")(train_classifier)
app.command("train-autoencoder")(train_autoencoder)
app.command()(sample)
app.command()(edit)
app.command()(invert)
app.command()(reconstruct)
app.command()(evaluate)
app.command()(compare)
app.command("search-grid")(search_grid)
app.command()(claims)
app.command()(likelihood)
app.command()(info)
app.command("list")(list_names)
app.add_typer(plot, name="plot")
app.command()(verify)
app.command()(doctor)


def run_app(arguments: Sequence[str]) -> int:
    """Run the command line with `arguments`; returns the exit code."""
    command = typer.main.get_command(app)
    try:
        return int(command.main([_hyphened(a) for a in arguments], prog_name="ebbflow", standalone_mode=False) or 0)
    except UsageError as error:
        error.show()
        return 2
    except (KeyboardInterrupt, typer.Abort):
        return _say("stopped.", 130)
    except BrokenPipeError:
        return 1
    except (ValueError, ImportError, FloatingPointError) as error:
        return _say(str(error), 2)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            return _say(
                f"the disk is full ({error.filename or 'while writing'}). Free some space and run the same "
                "command again.",
                2,
            )
        return _say(f"{error.filename or ''}: {error.strerror or error}", 2)


def _hyphened(argument: str) -> str:
    """--img_size and --img-size are the same flag; values keep their underscores."""
    found = re.match(r"--[A-Za-z][\w-]*", argument)
    return argument if found is None else found[0].replace("_", "-") + argument[found.end() :]


def _say(message: str, code: int) -> int:
    print(f"ebbflow: {message}", file=sys.stderr)
    return code
