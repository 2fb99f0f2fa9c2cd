"""A command from the record of its options: every parameter of the command line is made of a line of `options/`.

The values go as text to the record, which reads and checks them as it does those of a file or of Python.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from interlace_cli.cli.console import output
from interlace_cli.errors import UsageError
from interlace_cli.options.build import Entry, build_options, dump_call, index_names, list_entries, read_names
from interlace_cli.options.option import Options, Slot
from interlace_cli.options.shared import BETWEEN_PROCESSES

Compose = Callable[[type[Any], Mapping[str, Any]], Any]
"""Makes the record of what is given by name, from the command line and a file."""
KINDS = {int: "INTEGER", float: "FLOAT", str: "TEXT", Path: "PATH"}
ANSWER = "Answer"
OLDER = "older__"
SPREAD = ("prepare", "analyze", "finetune", "eval")
"""Commands that work in several processes."""
COMPOSED = ("run", "compare")
"""Commands of several steps. They take what is not said from the workspace, and the demo's own defaults."""
LED = ("run",)
"""Commands of several steps that have a launcher's processes work at those that are spread."""
SHARED = ("compare",)
"""Commands whose processes share the work through the workspace: each of a launcher's works by itself."""
LOOKS_ONLY = ("status", "env", "schema")
"""Commands that hold no lock: they may be asked while another is at work."""


def derive_command(name: str, command: Callable[[Any], None], compose: Compose | None = None) -> Callable[..., None]:
    """`command`, a function of one record of options, as Typer takes it."""
    record = get_type_hints(command)["options"]

    def run_command(**words: Any) -> None:
        is_idle = not settle_rank(name)
        if is_idle and "device_map" not in words:
            raise typer.Exit(0)
        with _telling_others(name), output.own_stdout(), _told_to_children(), ExitStack() as held:
            given = _collect(record, words)
            if name in LED:
                given |= held.enter_context(_leading(given))
            made = (compose or build_options)(record, given)
            _prepare_to_lend(made)
            if is_idle:
                _leave_processes()
                raise typer.Exit(0)
            if words["save_config"] is not None:
                _save_config(made, words["save_config"])
            if hasattr(made, "workspace") and name not in LOOKS_ONLY and made.locks_workspace:
                from interlace_cli.runtime.lock import locked

                held.enter_context(locked(made.workspace, name, output.say))
            command(made)
            _leave_processes()

    run_command.__doc__ = command.__doc__
    run_command.__signature__ = Signature(_build_parameters(record))  # type: ignore[attr-defined]
    run_command.__annotations__ = {}
    return run_command


def settle_rank(name: str) -> bool:
    """Of several processes of one command the first one speaks, and all let their launcher know that they live. What
    one process does by itself is left to the first: returns whether this one has work."""
    from interlace_cli.runtime.processes import find_processes

    here = find_processes()
    if here.is_launched:
        from interlace_cli.runtime.launch import show_life

        show_life()
    if not here.is_main:
        output.quiet, output.as_json = True, False
    if here.size == 1:
        return True
    # torch shows a stack trace of its own where a connection is lost; what is said of it is ours.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if name in SPREAD:
        from interlace_cli.runtime.watch import end_when_lost

        end_when_lost()
        return True
    if name in LED:
        if not here.is_main:
            from interlace_cli.runtime.worker_pool import follow

            raise typer.Exit(follow())
        return True
    if name in SHARED:
        from interlace_cli.runtime.workers import work_alone

        work_alone()
        return True
    return here.is_main


def _prepare_to_lend(options: Options) -> None:
    """Where weights are divided, processes without work of their own hold their part for those that have."""
    from interlace_cli.runtime.processes import find_processes

    if getattr(options, "device_map", None) == BETWEEN_PROCESSES and find_processes().size > 1:
        from interlace_cli.runtime.lending import open_lending

        open_lending()


def _leave_processes() -> None:
    """At the end; whoever comes first lends the others what they still need."""
    from interlace_cli.runtime.exchange import leave_processes

    leave_processes()


@contextmanager
def _leading(given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Of a launcher's processes the first one leads the others. Yields what that says of the options. Raises UsageError
    for another number of processes."""
    from interlace_cli.runtime.processes import find_processes

    size = find_processes().size
    if size == 1:
        yield {}
        return
    from interlace_cli.runtime.worker_pool import leading

    with leading():
        asked = given.get("processes")
        if asked is not None and str(asked) != str(size):
            raise UsageError(f"--processes {asked}: the launcher has started {size}.", "Leave it out.")
        yield {"processes": size}


@contextmanager
def _telling_others(name: str) -> Iterator[None]:
    """Of several processes of one command, the others learn why this one ends; and it says which one is gone, where
    that is why."""
    try:
        yield
    except BaseException as error:
        if name not in SPREAD:
            raise
        from interlace_cli.runtime.exchange import explain_lost, leave_word

        lost = explain_lost(error)
        leave_word(lost or error)
        if lost is not None:
            raise lost from error
        raise


@contextmanager
def _told_to_children() -> Iterator[None]:
    """Other processes that this command starts are as quiet, and say as much of an error."""
    said = {_name_variable(name): "1" for name in ("quiet", "debug") if getattr(output, name)}
    before = {name: os.environ.get(name) for name in said}
    os.environ.update(said)
    try:
        yield
    finally:
        for name, value in before.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value


def _name_variable(name: str) -> str:
    return f"INTERLACE_{name.upper()}"


def _collect(record: type[Options], words: Mapping[str, Any]) -> dict[str, Any]:
    """Name -> value: what the command line says, over the file of `--config`, over the environment."""
    typed = {
        name.removeprefix(OLDER): value
        for name, value in words.items()
        if name not in ("config", "save_config", "as_json", "quiet", "debug") and value is not None and value != []
    }
    entries = [(entry.name, entry.slot.option.environment) for entry in list_entries(record)]
    from_environment = {name: os.environ[variable] for name, variable in entries if os.environ.get(variable)}
    given = read_names(record, typed)
    if words["config"] is None:
        return {**from_environment, **given}
    if not words["config"]:
        raise UsageError("--config is an empty path.", "Name a YAML or TOML file, or leave it out.")
    return {**from_environment, **_read_file(record, Path(words["config"])), **given}


def _read_file(record: type[Options], path: Path) -> dict[str, Any]:
    """Name -> value of what a file says. Raises UsageError that names the file, also for a value."""
    from interlace_cli.cli.config_file import load_config

    found = read_names(record, load_config(path), str(path))
    for entry in list_entries(record):
        try:
            if entry.name in found:
                entry.slot.read(found[entry.name], entry.flag)
        except UsageError as error:
            raise UsageError(f"{path}: {error.what}", error.fix) from error
    return found


def _save_config(made: Options, path: str) -> None:
    from interlace_cli.cli.config_file import save_config
    from interlace_cli.io.paths import expand_home

    save_config(dump_call(made), expand_home(path), getattr(made, "force", False))


def _build_parameters(record: type[Options]) -> list[Parameter]:
    parameters, older_names = [], _find_older_names(record)
    for entry in list_entries(record):
        parameters.append(_build_parameter(entry.name, entry.slot, _describe_parameter(entry)))
        for older in older_names.get(entry.name, []):
            hidden = typer.Option(f"--{older.replace('_', '-')}", hidden=True)
            parameters.append(_build_parameter(OLDER + older, entry.slot, hidden))
    file = "YAML or TOML file with options; the command line goes first."
    written = "Write the options of this call to this YAML or TOML file."
    common = {
        "config": (str | None, typer.Option("--config", help=file, metavar="FILE", rich_help_panel=ANSWER)),
        "save_config": (
            str | None,
            typer.Option("--save-config", help=written, metavar="FILE", rich_help_panel=ANSWER),
        ),
        "as_json": (bool, _flag("--json", "Print the resulting record as JSON on stdout.", "as_json")),
        "quiet": (bool, _flag("--quiet", "Say nothing but errors.", "quiet", "-q")),
        "debug": (bool, _flag("--debug", "Show the traceback of an error.", "debug")),
    }
    for name, (kind, made) in common.items():
        default = False if kind is bool else None
        annotation = Annotated[kind, made]  # type: ignore[valid-type]
        parameters.append(Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation))
    return parameters


def _find_older_names(record: type[Options]) -> dict[str, list[str]]:
    """Option -> the names that it had, and those that other commands have for it; of no argument."""
    entries = {entry.name: entry for entry in list_entries(record) if not entry.slot.option.is_argument}
    found: dict[str, list[str]] = {}
    for older, name in index_names(record).items():
        if name in entries and older != entries[name].flag.lstrip("-").replace("-", "_"):
            found.setdefault(name, []).append(older)
    return found


def _flag(flag: str, text: str, name: str, *short: str) -> Any:
    """Takes effect when it is read, so that an error in a later word is answered as asked."""

    def set_output(value: bool) -> bool:
        setattr(output, name, value)
        return value

    variable = None if name == "as_json" else _name_variable(name)
    return typer.Option(
        flag,
        *short,
        callback=set_output,
        is_eager=True,
        help=text,
        envvar=variable,
        show_envvar=False,
        rich_help_panel=ANSWER,
    )


def _build_parameter(name: str, slot: Slot, made: Any) -> Parameter:
    kind: Any = bool if slot.kind is bool else str
    if slot.count == -1:
        kind = list[str]
    elif slot.count > 1:
        kind = tuple[(str,) * slot.count]  # type: ignore[misc]
    annotation = Annotated[kind | None, made]
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _describe_parameter(entry: Entry) -> Any:
    slot, o = entry.slot, entry.slot.option
    shown: dict[str, Any] = {
        "help": describe_help(slot),
        "show_default": False,
        "autocompletion": _complete(o.choices),
    }
    metavar = o.metavar if not o.metavar[:1].isdigit() else ""
    shown["metavar"] = " " if slot.kind is bool else metavar or KINDS.get(slot.kind, "TEXT")
    if o.is_argument:
        shown["metavar"] = entry.name.upper()
        return typer.Argument(**shown)
    flag = f"{entry.flag}/{o.negative}" if o.negative else entry.flag
    names = [flag, *([o.short] if o.short else [])]
    return typer.Option(*names, rich_help_panel=o.group or None, **shown)


def describe_help(slot: Slot) -> str:
    """The option's sentence, with its default and bounds."""
    o, notes = slot.option, []
    if o.choices and not all(choice in o.help for choice in o.choices):
        notes.append(", ".join(o.choices))
    default = o.shown_default or _show_default(o.default)
    if default:
        notes.append(f"default: {default}")
    if o.low is not None and o.high is not None:
        notes.append(f"{'between' if o.is_open else 'from'} {o.low:g} {'and' if o.is_open else 'to'} {o.high:g}")
    elif o.low is not None and o.low > 0:
        notes.append(f"at least {o.low:g}")
    if o.environment:
        notes.append(f"or ${o.environment}")
    return f"{o.help} ({'; '.join(notes)})" if notes else o.help


def _show_default(default: Any) -> str:
    if default is None or default is False or default == ():
        return ""
    if default is True:
        return "yes"
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    return f"{default:g}" if isinstance(default, float) else str(default)


def _complete(choices: tuple[str, ...]) -> Callable[[str], list[str]] | None:
    def complete(incomplete: str) -> list[str]:
        """The choices that begin so; of a list the last one is completed."""
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{choice}" for choice in choices if choice.startswith(last)]

    return complete if choices else None
