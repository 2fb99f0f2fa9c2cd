"""What a chain of steps can know of this machine before the first of them starts."""

from __future__ import annotations

from interlace_cli.healing.recipe import Execution, Recipe
from interlace_cli.healing.session import settle
from interlace_cli.io.checkpoints import read_config
from interlace_cli.options.compare import CompareOptions
from interlace_cli.options.run import RunOptions
from interlace_cli.runtime.processes import find_processes


def check_machine(options: RunOptions | CompareOptions) -> None:
    """Raises CheckpointError for a model that cannot be loaded, UnsupportedModelError for one that cannot be healed,
    UsageError or InterlaceError for a device, a way to attend, an engine, an optimizer or a tracker that is not
    here."""
    from interlace_cli.healing.arguments import check_arguments
    from interlace_cli.healing.engine import Engine
    from interlace_cli.io.models import check_attention, check_goes_on_from_prompt, check_loadable
    from interlace_cli.runtime.device import choose_device

    if options.model is not None:
        path = read_config(options.model)[1]
        check_loadable(path)
        check_goes_on_from_prompt(path, "healing")
    for step in (options.analyze, options.evaluate):
        choose_device(step.device)
        check_attention(step.attention)
    recipe, how = settle(Recipe.of(options.finetune), Execution.of(options.finetune))
    Engine(how.engine, max(find_processes().size, options.finetune.processes))
    check_arguments(recipe, how, options.workspace, choose_device(how.device))
