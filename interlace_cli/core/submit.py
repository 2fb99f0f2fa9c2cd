"""`compare --submit slurm`: the batch script of a comparison, written and shown; handed in with --yes alone."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from interlace_cli.domain.comparison import Submission
from interlace_cli.domain.progress import Progress
from interlace_cli.errors import InterlaceError, UsageError
from interlace_cli.io.artifacts import to_json_text
from interlace_cli.io.files import write_atomically
from interlace_cli.options.build import dump_call
from interlace_cli.options.compare import CompareOptions

SCRIPT, CONFIG = "slurm.sh", "slurm.json"


def submit(options: CompareOptions, progress: Progress) -> Submission:
    """Writes the script and the options of its jobs, and hands it in if that is asked for. Raises UsageError for
    sbatch's options that cannot be read, and InterlaceError for what sbatch refuses."""
    folder = options.workspace.resolve() / "compare"
    asked = {**dump_call(replace(options, workspace=options.workspace.resolve(), anew=False))}
    words = [*(["--force"] if options.force else []), *(["--anew"] if options.anew else [])]
    text = build_script(folder, Path.cwd(), options.workers, split_words(options.sbatch or ""), words)
    write_atomically(folder / CONFIG, (to_json_text(asked) + "\n").encode())
    write_atomically(folder / SCRIPT, text.encode())
    jobs = _hand_in(folder / SCRIPT) if options.hand_in else []
    if jobs:
        progress.say(f"handed in: job array {jobs[0]}, and {jobs[-1]} behind it, which collects")
    return Submission(workspace=str(options.workspace), script=str(folder / SCRIPT), text=text, jobs=jobs)


def split_words(text: str) -> list[str]:
    """sbatch's options as a shell would split them. Raises UsageError."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"--sbatch does not take {text!r}: {error}.", 'Such as "--partition=gpu --gpus=1".') from error
    loose = next((word for word in words[:1] if not word.startswith("-")), None)
    if loose is not None:
        raise UsageError(f"--sbatch begins with {loose!r}, which is no option.", 'Such as "--partition=gpu --gpus=1".')
    if any("\n" in word for word in words):
        raise UsageError("--sbatch has a line break.", 'Such as "--partition=gpu --gpus=1".')
    return words


def build_script(folder: Path, here: Path, workers: int, sbatch: Sequence[str], words: Sequence[str]) -> str:
    """A shell script that hands in two jobs: an array of `workers` tasks, and one that collects the cells when all of
    them have ended, however. `folder` is the comparison's, `here` where paths begin."""
    call = [sys.executable, "-m", "interlace_cli", "compare", "--config", str(folder / CONFIG)]
    array = f'{shlex.join([*call, *words])} --shard "$SLURM_ARRAY_TASK_ID/{workers}"'
    collect = shlex.join([*call, *(word for word in words if word != "--anew"), "--collect"])
    own = shlex.join(sbatch)
    return "\n".join(
        [
            "#!/bin/bash",
            "# Written by `interlace compare --submit slurm`. Run with bash, it hands in both jobs.",
            "set -euo pipefail",
            "",
            *_build_job("array", f"--array=1-{workers}", folder / "slurm-%A_%a.log", own, here, array),
            *_build_job("collect", '--dependency="afterany:${array%%;*}"', folder / "slurm-%j.log", own, here, collect),
            'echo "${array%%;*} ${collect%%;*}"',
            "",
        ]
    )


def _build_job(name: str, own: str, log: Path, sbatch: str, here: Path, command: str) -> list[str]:
    words = f"--job-name=interlace-compare {own} --output={shlex.quote(str(log))} {sbatch}".rstrip()
    return [
        f"{name}=$(sbatch --parsable {words} <<'JOB'",
        "#!/bin/bash",
        f"cd {shlex.quote(str(here))}",
        f"exec {command}",
        "JOB",
        ")",
        "",
    ]


def _hand_in(script: Path) -> list[str]:
    """The ids of the jobs."""
    try:
        done = subprocess.run(["bash", os.fspath(script)], capture_output=True, text=True, check=False)
    except OSError as error:
        raise InterlaceError(f"cannot run bash: {error.strerror or error}.", f"{script} is written.") from error
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split()) or f"exit code {done.returncode}"
        raise InterlaceError(f"the jobs were not handed in: {said}.", f"{script} is written.")
    return done.stdout.split()
