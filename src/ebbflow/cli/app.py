"""The commands, put together, and the one place where errors become sentences."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import click

from ebbflow.cli.command import SETTINGS, Failed, RequestCommand
from ebbflow.cli.errors import explained
from ebbflow.cli.together import launched, run_together
from ebbflow.errors import nearest
from ebbflow.requests.base import RENAMED


@dataclass(frozen=True)
class Verb:
    """A command that is loaded when it is used, so that help is quick.

    Of the verb search-grid, the function is `search_grid` and the request `SearchGridCommand` or `SearchGridRequest`.

    Args:
        says: what it does, in a few words.
        requests: the module of its request, below `ebbflow.requests`.
        module: that of its function, below `ebbflow.cli`.
        example: what follows its name in its help.
        function: where its own name would be another thing's.
    """

    says: str
    requests: str
    module: str
    example: str
    function: str = ""

    def command(self, name: str, path: str) -> click.Command:
        """The command."""
        known, stem = vars(import_module(f"ebbflow.requests.{self.requests}")), name.title().replace("-", "")
        cls = known.get(f"{stem}Command") or known[f"{stem}Request"]
        function = getattr(import_module(f"ebbflow.cli.{self.module}"), self.function or name.replace("-", "_"))
        return RequestCommand(name, cls, function, f"{path} {name} {self.example}".rstrip())


class Verbs(click.Group):
    """A group of verbs and groups of them.

    Args:
        name: of the group.
        path: how it is called.
        verbs: what it holds.
    """

    def __init__(self, name: str, path: str, verbs: dict[str, Verb | click.Command], **more: Any) -> None:
        super().__init__(name, context_settings=SETTINGS, no_args_is_help=True, **more)
        self.path, self.verbs = path, verbs

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in their order."""
        return list(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, loaded; None where there is none."""
        found = self.verbs.get(cmd_name)
        return found.command(cmd_name, self.path) if isinstance(found, Verb) else found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command of the first argument.

        Raises:
            click.UsageError: there is none; says what comes near.
        """
        if args[0] not in self.verbs:
            raise click.UsageError(f"No such command {args[0]!r}. {nearest(args[0], list(self.verbs))}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """One line for each, under the heads that begin at some of them."""
        groups: dict[str, list[tuple[str, str]]] = {}
        head = "Commands"
        for name, one in self.verbs.items():
            head = HEADS.get(name, head) if self.name == "ebbflow" else head
            groups.setdefault(head, []).append((name, one.says if isinstance(one, Verb) else one.help or ""))
        for head, rows in groups.items():
            with formatter.section(head):
                formatter.write_dl(rows)


HEADS = {
    "train": "Train",
    "sample": "Sample and edit",
    "evaluate": "Measure",
    "studio": "Look and serve",
    "ema": "Tools",
}
DIGITS, SEVEN = "--ckpt runs/digits", "--ckpt runs/digits --input seven.png"
PLOTS: dict[str, Verb | click.Command] = {
    "schedules": Verb("Alpha, sigma, beta and log-SNR of paths.", "plots", "plots", "--paths flow,cosine"),
    "weights": Verb("How objectives weigh noise levels.", "plots", "plots", "--objectives eps:uniform:uniform@vp"),
    "run": Verb("What runs wrote down.", "plots", "plots", "runs/a runs/b --output runs.png"),
    "noising": Verb("One image noised, at once and step by step.", "plots", "plots", "--data digits --path cosine"),
    "denoising": Verb("x_t and the x0 predicted from it.", "sampling", "plots", "--ckpt runs/digits --labels 3"),
    "toy-sampler": Verb("Why x_t - eps is no sampler.", "sampling", "plots", "--ckpt runs/digits"),
    "trajectories": Verb("Ways of 2-D points.", "sampling", "plots", "--ckpt runs/moons"),
}
VERBS: dict[str, Verb | click.Command] = {
    "train": Verb("Train a model, or go on with it.", "training", "train", "--preset digits --save-dir runs/digits"),
    "distill": Verb(
        "Train a model of few jumps from a run.", "training", "train", "runs/digits --into runs/fast --guidance 2"
    ),
    "train-classifier": Verb(
        "Train a noisy classifier that guides.", "training", "train", "--save-dir runs/classifier"
    ),
    "train-autoencoder": Verb("Train an autoencoder for latent diffusion.", "training", "train", "--data my_pictures"),
    "sample": Verb("Sample a trained model.", "sampling", "sampling", f"{DIGITS} --labels 0-9 --output samples.png"),
    "edit": Verb("Vary an image, or fill in a part of it.", "sampling", "sampling", f"{SEVEN} --output edits.png"),
    "restore": Verb(
        "Restore a degraded image without training for it.",
        "sampling",
        "sampling",
        "--ckpt runs/a --truth 7.png --operator blur --output b.png",
    ),
    "invert": Verb("Find the noise that gives an image.", "sampling", "sampling", f"{SEVEN} --output noise.npz"),
    "reconstruct": Verb("Measure the way to noise and back.", "sampling", "sampling", f"{DIGITS} --steps 5,10,20"),
    "evaluate": Verb("Measure samples against the data.", "studies", "studies", f"{DIGITS} --num 1000 --guidance 1"),
    "evaluate-images": Verb(
        "Measure pictures made by anything.", "studies", "studies", "--images pictures --data digits"
    ),
    "compare": Verb(
        "Compare runs and ways to sample them.", "studies", "studies", "runs/a runs/b --samplers ddim,heun"
    ),
    "search-grid": Verb("Search the times of few steps.", "studies", "studies", f"{DIGITS} --steps 5,10"),
    "likelihood": Verb("Measure bits a dimension of held-out data.", "studies", "studies", f"{DIGITS} --num 64"),
    "claims": Verb(
        "Measure what is said of diffusion and flow.", "studies", "studies", "--diffusion runs/a --flow runs/b"
    ),
    "verify": Verb("Prove samplers and paths on exact data.", "studies", "verify", "--samplers heun --paths flow,vp"),
    "studio": Verb("Open a page on the runs of a folder.", "serving", "serving", "runs"),
    "serve": Verb("Serve trained models to programs.", "serving", "serving", "runs/digits"),
    "plot": Verbs("plot", "ebbflow plot", PLOTS, help="Draw paths, weights, runs, ways from noise."),
    "ema": Verb("Average a run's weights over other lengths.", "tools", "tools", "runs/digits --lengths 0.05,0.1"),
    "export": Verb(
        "Write a run in a form that others open.", "tools", "tools", "runs/digits --to onnx --output digits_onnx"
    ),
    "push": Verb("Put a run on the Hugging Face hub.", "tools", "tools", "runs/digits USER/NAME --dry-run"),
    "pack": Verb("Write a folder of pictures as tar shards.", "tools", "packing", "my_pictures shards"),
    "info": Verb("Say what a run is.", "tools", "inspect", "runs/digits"),
    "list": Verb("List what there is to choose from.", "tools", "inspect", "samplers heun", "list_names"),
    "doctor": Verb("Check this machine.", "tools", "inspect", ""),
}


def _version(ctx: click.Context, param: click.Parameter, asked: bool) -> None:
    if asked:
        from ebbflow import __version__

        print(f"ebbflow {__version__}")
        ctx.exit()


def _complete(ctx: click.Context, param: click.Parameter, asked: bool) -> None:
    if asked:
        from ebbflow.cli.completion import install, script

        print(script(app) if param.name == "show_completion" else f"{install()}: open a new terminal")
        ctx.exit()


def _eager(*names: str, callback: Any, help: str) -> click.Option:
    return click.Option(names, is_flag=True, is_eager=True, expose_value=False, callback=callback, help=help)


app = Verbs(
    "ebbflow",
    "ebbflow",
    VERBS,
    help="Train, sample, edit, measure and compare diffusion and flow-matching models.",
    epilog="`ebbflow COMMAND --help` shows its options. Everywhere: --import MODULE adds samplers, paths, nets, "
    "data, ... of yours; --debug shows where an error comes from.",
    params=[
        _eager("--version", "-V", callback=_version, help="Show the version."),
        _eager("--install-completion", callback=_complete, help="Have your shell complete commands and options."),
        _eager("--show-completion", callback=_complete, help="Print what that would have it run."),
    ],
)


def run_app(arguments: Sequence[str]) -> int:
    """Run the command line with `arguments`, in all processes that a launcher started; returns the exit code."""
    if launched():
        return run_together(_run, arguments, _say)
    return _run(arguments)


def _run(arguments: Sequence[str]) -> int:
    rest, modules, debug = everywhere([_hyphened(a) for a in arguments])
    try:
        with _imported(modules):
            return int(app.main(rest, prog_name="ebbflow", standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        return 0
    except click.UsageError as error:
        place, option = error.ctx.command_path if error.ctx else "ebbflow", getattr(error, "option_name", "")
        now = RENAMED.get(option.removeprefix("--"))
        said = error.format_message() if now is None else f"{option} is now --{now}; see docs/words.md."
        return _say(f"{said} `{place} --help` shows what there is.", 2)
    except (KeyboardInterrupt, click.Abort):
        if sys.stderr.isatty():
            print(file=sys.stderr)  # a bar may still stand there
        return _say("stopped.", 130)
    except Exception as error:
        if debug:
            traceback.print_exc()
        served, cause = ((error.cls, error.request), error.__cause__) if isinstance(error, Failed) else ((), error)
        return 1 if isinstance(cause, BrokenPipeError) else _say(*explained(cause or error, *served))


def everywhere(arguments: Sequence[str]) -> tuple[list[str], list[str], bool]:
    """The arguments without those that every command has: the rest, modules to import, whether to debug."""
    rest, modules, debug = [], [], False
    given = iter(arguments)
    for one in given:
        if one == "--debug":
            debug = True
        elif one == "--import":
            modules.append(next(given, ""))
        elif one.startswith("--import="):
            modules.append(one.partition("=")[2])
        else:
            rest.append(one)
    return rest, modules, debug


def _imported(modules: Sequence[str]) -> AbstractContextManager[None]:
    if not modules:
        return nullcontext()
    from ebbflow.plugins import imported

    return imported(modules)


def _hyphened(argument: str) -> str:
    """--img_size and --img-size are the same flag; values keep their underscores."""
    found = re.match(r"--[A-Za-z][\w-]*", argument)
    return argument if found is None else found[0].replace("_", "-") + argument[found.end() :]


def _say(message: str, code: int) -> int:
    with suppress(OSError):  # where the terminal went away
        print(f"ebbflow: {message}", file=sys.stderr)
    return code
