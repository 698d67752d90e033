"""What the commands share: options, the overview of `hbt-dist --help`, and a word after Ctrl-C."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hbt_dist.common.console import hush
from hbt_dist.config.shipped import RUN_FILES

#: The commands as `hbt-dist --help` lists them; with the exit codes they fill 24 lines of 80 columns.
OVERVIEW = {
    "Train": {
        "train": "train a run; the same command continues an interrupted one",
        "export": "write a checkpoint's model for transformers",
    },
    "Evaluate": {
        "evaluate": "measure a model on every pair of languages, and on all at once",
        "expand": "expand a benchmark's questions with a language model",
    },
    "Compare and search": {
        "compare": "say whether evaluations differ from a baseline",
        "report": "write the page of an evaluation, a search or a study",
        "search": "search over settings of a run with Ray Tune",
        "study": "compare ways of training over seeds and benchmarks",
    },
    "Look around": {
        "data": "inspect: what the corpus holds, what the batches will be",
        "doctor": "look whether this machine is ready to train",
        "files": "list or copy the configurations that come with the package",
        "schema": "print every key of the run, search or study file",
    },
}
EPILOG = """Options: --help (also behind a command), --version, --install-completion.
Exit codes: 0 done; 1 an unexpected failure, or doctor has found a problem;
2 something given cannot be used; 130 interrupted."""

#: Commands that take up what an interrupted one has left; the others start again.
CONTINUING = ("train", "search", "study", "expand")


class InterruptError(Exception):
    """Ctrl-C, past typer, which would end without a word."""


class Commands(TyperGroup):
    """The group of all commands."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            verb = "continues" if ctx.invoked_subcommand in CONTINUING else "starts again"
            raise InterruptError(str(error) or f"interrupted; the same command {verb}") from None

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """One screen: every command in one line, what belongs together under one title."""
        formatter.write(f"Usage: {ctx.command_path} COMMAND [ARGS]...\n\n{self.help}\n\n")
        for title, commands in OVERVIEW.items():
            formatter.write(f"{title}:\n")
            for name, what in commands.items():
                formatter.write(f"  {name:<10}{what}\n")
        formatter.write(f"\n{EPILOG}\n")


def _hush(quiet: bool) -> bool:
    hush(quiet)
    return quiet


RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="run file (YAML), or the name of one that comes with the package: "
        + ", ".join(sorted(file.stem for file in RUN_FILES.glob("*.yaml"))),
    ),
]
OverrideArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="overrides, such as batches.alpha=0.25", show_default=False
    ),
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", callback=_hush, help="print errors and the result only")
]
