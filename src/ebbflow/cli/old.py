"""The verbs that sample, still declared by functions, as commands beside the others, until requests declare them."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import click


def _run(function: str, path: str, name: str, arguments: list[str]) -> int:
    import typer

    module, _, attribute = function.partition(".")
    verb = getattr(importlib.import_module(f"ebbflow.cli.{module}"), attribute)
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(name, context_settings={"help_option_names": ["-h", "--help"]}, help=inspect.getdoc(verb))(verb)
    error_class: Any = typer.BadParameter.__bases__[0]
    try:
        found = typer.main.get_command(app).main(arguments, prog_name=f"{path} {name}", standalone_mode=False)
    except error_class as error:
        raise click.UsageError(error.format_message()) from None
    return int(found or 0)


def old(name: str, path: str, function: str, says: str) -> click.Command:
    """The command."""

    @click.pass_context
    def serve(ctx: click.Context) -> int:
        return _run(function, path, name, ctx.args)

    settings = {"ignore_unknown_options": True, "allow_extra_args": True, "allow_interspersed_args": False}
    return click.Command(name, help=says, add_help_option=False, context_settings=settings, callback=serve)
