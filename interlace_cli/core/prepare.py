"""`prepare`: a reproducible sample of conversations with images, split so that no image is in two splits.

Records are read unit by unit, several at a time, into a folder beside the dataset, which an interrupted call goes on
from (`data/staging.py`); when all are there, splits are decided and the dataset is written. Units may be dealt out to
processes (`--processes`), or to jobs on any number of hosts (`--shard`), of which the last one writes the dataset.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from interlace_cli.core.preparation import (
    ORIGIN,
    Preparation,
    build_selection,
    build_settings,
    describe_draw,
    find_location,
    open_preparation,
    write_dataset,
)
from interlace_cli.core.spread import has_to_spread, run_spread
from interlace_cli.core.step import INPUTS, Condition, Step, describe_differences
from interlace_cli.data.files_read import describe_source_changes, find_source_inputs
from interlace_cli.data.sources import has_files, open_source
from interlace_cli.data.staging import ReadUnit
from interlace_cli.domain.dataset import Manifest, SourceDraw, StagedShare
from interlace_cli.domain.progress import Progress
from interlace_cli.errors import DatasetError, InterlaceError, UsageError
from interlace_cli.io.datasets import MANIFEST
from interlace_cli.io.files import check_free, parse_json
from interlace_cli.io.workspace import Workspace
from interlace_cli.options.prepare import PrepareOptions
from interlace_cli.options.shard import Shard, parse_shard
from interlace_cli.runtime.lease import try_acquire
from interlace_cli.runtime.processes import find_processes, is_launched_by_us


def prepare(options: PrepareOptions, progress: Progress) -> Manifest | StagedShare:
    """Draws the sample and writes the dataset; of a share of it, reads its units, and writes the dataset if it is the
    last. Raises ExistsError if another is there, DatasetError if no record can be used."""
    share = find_share(options.shard)
    if share is None:
        return build_step(options).run(progress, options.force)
    if is_launched_by_us():
        made = open_preparation(options, find_out(options), progress)
        return _describe_share(share, made, made.stage(progress, share.choose(range(len(made.draw.units)))))
    return _prepare_share(options, share, progress)


def find_out(options: PrepareOptions) -> Path:
    """Where the dataset is."""
    return options.out or Workspace(options.workspace).dataset


def find_share(given: str | None) -> Shard | None:
    """This process's share: one of the processes of a launcher, each of which takes its part of the share that is
    `given`; None for all of the work."""
    here, share = find_processes(), Shard(1, 1) if given is None else parse_shard(given)
    count = share.count * here.size
    return Shard((share.index - 1) * here.size + here.rank + 1, count) if count > 1 else None


def _prepare_share(options: PrepareOptions, share: Shard, progress: Progress) -> Manifest | StagedShare:
    if (current := _find_current(options)) is not None:
        progress.say(f"{find_out(options)} is up to date.")
        return current
    step = build_step(options)
    state = step.find_state()
    if state.is_stale and not options.force:
        raise step.build_refusal(state)
    made = open_preparation(options, step.out, progress)
    try:
        done = _stage(made, share.choose(range(len(made.draw.units))), progress)
        may_replace = options.force or state.condition is Condition.DAMAGED
        return _join_shares(made, done, progress, may_replace) or _describe_share(share, made, done)
    except InterlaceError:
        # A call for all of the work has come first, and has removed what it does not need any longer.
        if (current := _find_current(options)) is not None:
            return current
        raise


def _join_shares(
    made: Preparation, done: dict[int, ReadUnit], progress: Progress, may_replace: bool
) -> Manifest | None:
    """The dataset, if all shares are there; None while another has to come, or writes it."""
    staged = made.gather(done)
    if staged is None:
        lacking = len(made.find_missing())
        progress.say(
            f"Pieces of other shares that are still to be read: {lacking}. The last share writes the dataset."
            if lacking
            else "Pieces of other shares were read from files that have changed since: `interlace prepare` without"
            " --shard reads them again."
        )
        return None
    out = made.staging.out
    lease = try_acquire(out.parent / f".{out.name}.joining", "prepare")
    if lease is None:
        progress.say("All shares are read: another process is writing the dataset.")
        return None
    try:
        # Another may have been here between the look and the lease.
        return _find_current(made.options) or write_dataset(made, staged, progress, may_replace)
    finally:
        lease.release()


def _find_current(options: PrepareOptions) -> Manifest | None:
    """What lies there, if it is what these options would make."""
    state = build_step(options).find_state()
    return state.artifact if state.is_current and isinstance(state.artifact, Manifest) else None


def _stage(made: Preparation, numbers: list[int], progress: Progress) -> dict[int, ReadUnit]:
    """Reads these units, in several processes where that is asked for and there are so many. Returns those that were
    read in this one."""
    missing = [number for number in numbers if not made.staging.has(number)]
    # Where all are there, this one looks whether they still count.
    count = max(min(made.options.processes, len(missing)), 1)
    if not has_to_spread(count):
        return made.stage(progress, numbers)
    run_spread("prepare", replace(made.options, out=made.staging.out), count)
    return {}


def _describe_share(share: Shard, made: Preparation, done: dict[int, ReadUnit]) -> StagedShare:
    units = share.choose(range(len(made.draw.units)))
    samples = sum(unit.samples for unit, _ in done.values())
    return StagedShare(share=str(share), units=len(units), samples=samples, missing=len(made.find_missing()))


def build_step(options: PrepareOptions) -> Step[Manifest]:
    """The dataset depends on the options and on the content of every file that is read for it."""
    out, location = find_out(options), find_location(options)

    def make(progress: Progress, may_replace: bool) -> Manifest:
        check_free(out, may_replace)
        made = open_preparation(options, out, progress)
        everything = list(range(len(made.draw.units)))
        staged = made.gather(_stage(made, everything, progress))
        # What other processes have read may have changed at its source meanwhile.
        staged = staged or made.gather(made.stage(progress, everything))
        assert staged is not None, "a unit that was just read is not there"
        return write_dataset(made, staged, progress, may_replace)

    # What is read is known once it was read: what lies there says which files these are.
    inputs, broken = {}, ""
    if (out / MANIFEST).exists():
        try:
            inputs = find_source_inputs(options.source, location, out)
        except (DatasetError, UsageError) as error:
            broken = error.what.rstrip(".")

    def find_differences(manifest: Manifest, step: Step[Manifest]) -> list[str]:
        return [broken] if broken else _find_differences(manifest, step, options)

    return Step(
        name="prepare",
        settings=build_settings(options),
        inputs=inputs,
        out=out,
        file=MANIFEST,
        record=Manifest,
        make=make,
        find_differences=find_differences,
    )


def _find_differences(manifest: Manifest, step: Step[Manifest], options: PrepareOptions) -> list[str]:
    """Of files of the source that have changed, which ones."""
    reasons = describe_differences(manifest, step.settings, step.inputs)
    if manifest.inputs.get("source") == step.inputs.get("source") or not has_files(options.source):
        return reasons
    changes = describe_source_changes(options.source, find_location(options), step.out)
    return [reason for reason in reasons if not reason.startswith(INPUTS["source"])] + (changes or reasons[-1:])


def load_origin(dataset: Path) -> dict[str, Any] | None:
    """Where the source of a dataset lay when it was made: options of `prepare`; None where it does not say, or says
    what cannot be."""
    try:
        found = parse_json((dataset / ORIGIN).read_bytes())
    except OSError:
        return None
    if not isinstance(found, dict) or "source" not in found:
        return None
    paths = {name: found[name] for name in ("source", "image_root", "mirror") if name in found}
    return paths if all(isinstance(path, str) and path for path in paths.values()) else None


def draw_source(options: PrepareOptions) -> SourceDraw:
    """What would be read."""
    source = open_source(options.source, find_location(options))
    draw = source.draw(build_selection(options))
    return SourceDraw(
        source=source.name,
        revision=source.revision,
        selection=draw.method,
        records=draw.records,
        draws=list(draw.parts),
        description=" ".join(line for line in (describe_draw(source, draw), *draw.notes) if line),
    )
