"""Completion by the shell: `--show-completion` and `--install-completion`."""

from __future__ import annotations

import os
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from ebbflow.errors import ConfigError

VARIABLE = "_EBBFLOW_COMPLETE"
FILES = {"bash": "~/.bashrc", "zsh": "~/.zshrc", "fish": "~/.config/fish/completions/ebbflow.fish"}


def script(command: click.Command) -> str:
    """What the user's shell has to run to complete `ebbflow`."""
    kind = get_completion_class(_shell())
    assert kind is not None
    return kind(command, {}, "ebbflow", VARIABLE).source()


def install() -> Path:
    """Have the user's shell complete `ebbflow` from its next start on; the file that says so."""
    shell = _shell()
    file = Path(FILES[shell]).expanduser()
    line = f'eval "$({VARIABLE}={shell}_source ebbflow)"\n'
    if shell == "fish":
        line = f"{VARIABLE}=fish_source ebbflow | source\n"
    before = file.read_text(encoding="utf-8") if file.is_file() else ""
    if line not in before:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as opened:
            opened.write(line if before.endswith("\n") or not before else f"\n{line}")
    return file


def _shell() -> str:
    """The user's shell.

    Raises:
        ConfigError: one that cannot complete.
    """
    name = Path(os.environ.get("SHELL", "")).name
    if name not in FILES:
        raise ConfigError(f"completion works in {', '.join(FILES)}; $SHELL is {name or 'not set'}.")
    return name
