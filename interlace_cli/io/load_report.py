"""What transformers says of a model while it loads it, where it says it in its log alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from interlace_cli.runtime.memory import find_shortage

LOGGER = "transformers.modeling_utils"


class _Keeper(logging.Handler):
    def __init__(self, texts: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.texts = texts

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps the text."""
        self.texts.append(record.getMessage())


@contextmanager
def shortages_raised() -> Iterator[None]:
    """Raises a RuntimeError with what was said of memory that was short while weights were converted (experts are
    joined): transformers notes each error, goes on, and raises in the end that there were some, with no word of which.
    They stand whole in the report that it logs, of which nothing is printed.

    Source: log_conversion_errors in transformers/core_model_loading.py.
    """
    logger, texts = logging.getLogger(LOGGER), list[str]()
    before, keeper = (logger.level, logger.propagate), _Keeper(texts)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    logger.addHandler(keeper)
    try:
        yield
    except RuntimeError as error:
        if (line := find_shortage("\n".join(texts))) is not None:
            raise RuntimeError(line) from error
        raise
    finally:
        logger.removeHandler(keeper)
        logger.level, logger.propagate = before
