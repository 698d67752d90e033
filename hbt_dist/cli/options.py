"""Define shared options, the overview of `hbt-dist --help`, and the message after Ctrl-C or SIGTERM."""

from __future__ import annotations

import signal
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hbt_dist.cli.completion import complete_key, complete_run
from hbt_dist.common.console import hush
from hbt_dist.common.signals import TerminationError
from hbt_dist.config.shipped import RUN_FILES

#: The commands in the order of `hbt-dist --help`, which fills 24 lines of 80 columns.
OVERVIEW = {
    "Train": {
        "init": "write a commented run file, filled in from your data",
        "train": "train a run; the same command continues an interrupted one",
        "mine": "mine hard negatives from a corpus with a model",
        "export": "write a checkpoint's model for transformers",
        "merge": "merge models or checkpoints: average, or slerp of two",
    },
    "Evaluate": {
        "evaluate": "score a model on every language pair and on the pool of all",
        "expand": "expand a benchmark's questions with a language model",
    },
    "Compare and search": {
        "compare": "compare evaluations with a baseline",
        "report": "write the page of an evaluation, a search or a study",
        "search": "search over settings of a run with Ray Tune",
        "study": "compare training methods over seeds and benchmarks",
    },
    "Inspect": {
        "data": "inspect: show the corpus and the batches of a run",
        "doctor": "check that this machine is ready to train",
        "files": "list or copy the configurations of the package",
        "schema": "print every key of the run, mine, search or study file",
    },
}
EPILOG = """Options: --help (also after a command), -V (--version), --install-completion.
Exit codes: 0 done; 1 failure or problem; 2 unusable input; 130 or 143 stopped."""

#: Commands that continue an interrupted run; all further commands start again.
CONTINUING = ("train", "mine", "search", "study", "expand")


class InterruptError(Exception):
    """Carry Ctrl-C and SIGTERM past typer, which would end without a message.

    Attributes:
        exit_code: of the process.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Commands(TyperGroup):
    """Run a command, and print the overview as help."""

    def invoke(self, ctx: Any) -> Any:
        """Run the requested command.

        Raises:
            InterruptError: Ctrl-C or SIGTERM.
        """
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            verb = "continues" if ctx.invoked_subcommand in CONTINUING else "starts again"
            ended, number = "interrupted", signal.SIGINT
            if isinstance(error, TerminationError):
                ended, number = "terminated", signal.SIGTERM
            raise InterruptError(str(error) or f"{ended}; the same command {verb}", 128 + number) from None

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Print the overview if no command is named: typer's own way prints nothing for this class."""
        if not args:
            typer.echo(self.get_help(ctx))
            ctx.exit(2)
        if args[0] == "help":  # as git and docker have it: help, help train
            args = [*args[1:], "--help"]
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the overview: one line per command, grouped by purpose."""
        formatter.write(f"Usage: {ctx.command_path} COMMAND [ARGS]...\n{self.help}\n")
        for title, commands in OVERVIEW.items():
            formatter.write(f"{title}:\n")
            for name, summary in commands.items():
                formatter.write(f"  {name:<10}{summary}\n")
        formatter.write(f"\n{EPILOG}\n")


def comma_list(text: str | None) -> tuple[str, ...]:
    """Return the non-empty parts of a comma-separated option."""
    return tuple(part for part in map(str.strip, (text or "").split(",")) if part)


def _hush(quiet: bool) -> bool:
    hush(quiet)
    return quiet


RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        autocompletion=complete_run,
        help="run file (YAML), or the name of a run file of the package: "
        + ", ".join(sorted(file.stem for file in RUN_FILES.glob("*.yaml"))),
    ),
]
OverrideArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        autocompletion=complete_key,
        help="overrides, such as batches.alpha=0.25",
        show_default=False,
    ),
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", callback=_hush, help="print only errors and the result")
]
