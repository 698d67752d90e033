"""Assemble the command line and turn a user's mistake into one message.

Exit codes: 0 done; 1 a bug or an unexpected failure (with a traceback), or a problem that doctor reports;
2 an input cannot be used (one message on stderr); 130 interrupted by Ctrl-C; 143 terminated by SIGTERM where
nothing was to be saved.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from hbt_dist import __version__
from hbt_dist.cli.compare import compare
from hbt_dist.cli.data import inspect
from hbt_dist.cli.doctor import doctor
from hbt_dist.cli.evaluate import evaluate
from hbt_dist.cli.expand import expand
from hbt_dist.cli.export import export
from hbt_dist.cli.files import files
from hbt_dist.cli.init import init
from hbt_dist.cli.merge import merge
from hbt_dist.cli.mine import mine
from hbt_dist.cli.options import Commands, InterruptError
from hbt_dist.cli.report import report
from hbt_dist.cli.schema import schema
from hbt_dist.cli.search import search
from hbt_dist.cli.study import study
from hbt_dist.cli.train import train
from hbt_dist.common.console import quiet_libraries
from hbt_dist.common.errors import UserError
from hbt_dist.common.signals import raise_on_sigterm

app = typer.Typer(
    name="hbt-dist",
    cls=Commands,
    help="Hybrid batch training of multilingual dense retrievers; exact evaluation.",
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    init,
    train,
    mine,
    export,
    merge,
    evaluate,
    expand,
    compare,
    report,
    search,
    study,
    doctor,
    files,
    schema,
):
    app.command()(command)
data_app = typer.Typer(no_args_is_help=True, help="Inspect training data and batches.")
data_app.command()(inspect)
app.add_typer(data_app, name="data")


def _version(requested: bool) -> None:
    if requested:
        typer.echo(__version__)
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    pass


@contextmanager
def _output_checked() -> Iterator[None]:
    """Raise a `UserError` if standard output cannot be written, as on a full disk."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError as error:
        if error.filename is not None or _writes("\n"):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes again at its end
        raise UserError(
            "standard output",
            f"cannot be written: {error.strerror}",
            "free space, or redirect the output to a different disk",
        ) from None


def _writes(text: str) -> bool:
    """Write to standard output; return whether that works."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError:
        return False
    return True


def main() -> None:
    """Run the `hbt-dist` command."""
    quiet_libraries()
    raise_on_sigterm()
    try:
        with _output_checked():
            app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except InterruptError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
