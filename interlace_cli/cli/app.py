"""The commands, and the only module that catches an error."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
import typer.core

from interlace_cli import __version__
from interlace_cli.cli.console import output
from interlace_cli.cli.derive import COMPOSED, derive_command
from interlace_cli.cli.interruption import LINE, watch_interruptions
from interlace_cli.errors import InterlaceError, LostPeerError
from interlace_cli.options.option import find_nearest
from interlace_cli.runtime.processes import (
    INTERRUPTED,
    LOST,
    end_at_once,
    has_open_group,
    is_connection_lost,
    is_launched_by_us,
)

COMMANDS = {
    name: {"eval": "evaluate"}.get(name, name)
    for name in (
        *("run", "prepare", "analyze", "plan", "prune", "finetune", "eval", "export", "compare", "report", "status"),
        *("bench", "env", "schema"),
    )
}
"""Name -> its module here, and the function in it; in the order of the pipeline."""


class Commands(typer.core.TyperGroup):
    """The boundary: an InterlaceError becomes a sentence and an exit code; anything else is a bug of ours."""

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order of the pipeline, not of the alphabet."""
        del ctx
        return list(self.commands)

    def invoke(self, ctx: Any) -> Any:
        """Runs the command; see the class for what happens to errors."""
        output.configure(as_json=False, quiet=False, debug=False)
        try:
            try:
                return super().invoke(ctx)
            finally:
                # What is left is to say how.
                output.ended = True
        except InterlaceError as error:
            if output.debug:
                raise
            if isinstance(error, LostPeerError) and is_launched_by_us():
                raise typer.Exit(LOST) from error
            # A command in other processes has said itself what is wrong.
            if error.what:
                output.fail(str(error))
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt:
            if not is_launched_by_us():
                output.fail(LINE)
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            sys.stderr.close()
            raise typer.Exit(1) from None
        except OSError as error:
            if output.debug:
                raise
            output.fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}.")
            raise typer.Exit(1) from error
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            if type(error).__name__ == "NoSuchOption":
                output.fail(_describe_unknown_option(error))
                raise typer.Exit(2) from error
            if output.debug or type(error).__module__.startswith(("typer", "click")):
                raise
            from interlace_cli.runtime.memory import is_out_of_memory

            if is_launched_by_us() and is_connection_lost(error):
                raise typer.Exit(LOST) from error
            name, _, rest = f"{type(error).__name__}: {error}".strip().partition("\n")
            if is_out_of_memory(error):
                from interlace_cli.runtime.shortage import read_shortage

                output.fail(f"out of memory: {read_shortage(error)}. Take a lower --batch-size, or bound the images.")
                raise typer.Exit(1) from error
            # torch and transformers raise bare RuntimeErrors, running out of memory among them: no bug of ours.
            is_bug = not isinstance(error, RuntimeError)
            hint = "This is a bug of interlace: please report it with what --debug shows." if is_bug else ""
            output.fail(f"{name}{' ...' if rest else ''} {hint or '(--debug shows where)'}")
            raise typer.Exit(1) from error


def _describe_unknown_option(error: Any) -> str:
    """In our words, without the names that options had once."""
    shown = [name for one in error.ctx.command.params if not getattr(one, "hidden", False) for name in one.opts]
    near = find_nearest(error.option_name, [name for name in shown if name.startswith("--")])
    advice = f"Did you mean {near}?" if near else f"`{error.ctx.command_path} --help` lists them."
    return f"there is no option {error.option_name}. {advice}"


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"interlace {__version__}")
        raise typer.Exit


def _interlace(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of the program itself."""
    del version


def _compose(record: type[Any], given: Mapping[str, Any]) -> Any:
    from interlace_cli.core.run import compose_options

    return compose_options(record, given)


def build_app(words: Sequence[str] = ()) -> typer.Typer:
    """The program; where `words` begin with a command's name, with that command alone, because reading the signatures
    of all others takes longer than many a command."""
    made = typer.Typer(
        name="interlace",
        cls=Commands,
        help="Shorter vision-language models: find redundant layers, drop them, heal what stays, and say what it cost.",
        no_args_is_help=True,
        # rich draws the groups of help; nothing else needs it here.
        rich_markup_mode="rich" if not words or {"--help", "-h"} & set(words) else None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"]},
    )
    made.callback()(_interlace)
    for name in words[:1] if words and words[0] in COMMANDS else COMMANDS:
        module = import_module(f"interlace_cli.cli.{COMMANDS[name]}")
        command = getattr(module, COMMANDS[name])
        text = " ".join((command.__doc__ or "").split())
        # The list of commands has the first sentence of each, whole.
        made.command(name, help=text, short_help=f"{text.partition('. ')[0].rstrip('.')}.")(
            derive_command(name, command, _compose if name in COMPOSED else None)
        )
    return made


def __getattr__(name: str) -> Any:
    """`app`: the program with all of its commands, built when it is asked for."""
    if name != "app":
        raise AttributeError(name)
    globals()["app"] = build_app()
    return globals()["app"]


def main() -> None:
    """The console script. Asked to end (by a cluster's scheduler, say), it clears up as after Ctrl-C."""
    signal.signal(signal.SIGINT, output.interrupt)
    signal.signal(signal.SIGTERM, output.interrupt)
    watch_interruptions()
    try:
        build_app(sys.argv[1:])(prog_name="interlace")
    # Before the command has begun, or once more behind it; `Commands` sees what comes between.
    except KeyboardInterrupt:
        if not is_launched_by_us():
            output.fail(LINE)
        sys.exit(INTERRUPTED)
    except BaseException as error:
        if not has_open_group():
            raise
        if isinstance(error, SystemExit):
            end_at_once(error.code if isinstance(error.code, int) else 1)
        sys.excepthook(type(error), error, error.__traceback__)
        end_at_once(1)
