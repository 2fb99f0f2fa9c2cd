"""Why a remote file cannot be read: one of few answers, whatever library was asked.

`fsspec` has an implementation for each protocol, and each raises what its own client does. What counts is the HTTP
status behind the error where there is one, else its kind. Whatever is no definite answer may pass: it is tried again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar

from interlace_cli.errors import DatasetError, InterlaceError, MissingInputError
from interlace_cli.io.addresses import advise_access, describe_error

T = TypeVar("T")
Answer = Literal["missing", "refused", "impossible", "passing"]
WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each new try."""
ENOUGH, FAR_ENOUGH = 20.0, 60.0
"""Seconds after which nothing is asked a third time, or a second."""
_MISSING, _REFUSED = (404, 410), (401, 403, 407)
_PASSING = (400, 408, 409, 425, 429)
"""400 is also what aiohttp says of an answer that broke off."""
DEPTH = 8
"""Errors behind each other that are looked at."""


def classify(error: BaseException) -> Answer:
    """What the error says of the file: it is not there; who asks may not read it; it cannot be read in this way; or
    none of these, and it may be another one the next time."""
    chain = list(_iter_chain(error))
    if isinstance(error, PermissionError):
        return "refused"
    status = next((status for one in chain if (status := _find_status(one)) is not None), None)
    if status is not None and status >= 400:
        if status in _MISSING:
            return "missing"
        if status in _REFUSED:
            return "refused"
        return "passing" if status >= 500 or status in _PASSING else "impossible"
    if any("credentials" in str(one).lower() for one in chain):
        return "refused"
    if isinstance(error, FileNotFoundError):
        # fsspec's HTTP says so of a server, too, that cannot be reached; the error behind it is the answer then.
        behind = chain[1:]
        return "missing" if all(isinstance(one, (FileNotFoundError, LookupError)) for one in behind) else "passing"
    if isinstance(error, (IsADirectoryError, NotADirectoryError)):
        return "missing"
    return "impossible" if isinstance(error, (ValueError, NotImplementedError)) else "passing"


def explain(address: str, error: BaseException) -> InterlaceError:
    """The sentence for who named the address."""
    words, answer = describe_error(_find_cause(error)), classify(error)
    if answer == "missing":
        # A file that is not there may be named without a word more.
        more = "" if words in address else f": {words}"
        return MissingInputError(f"there is nothing at {address}{more}.", "Check the bucket or host, and the path.")
    if answer == "refused":
        return MissingInputError(f"{address} may not be read: {words}.", advise_access(address))
    if answer == "impossible":
        return DatasetError(f"{address} cannot be read: {words}.", "Download it, and name the copy.")
    return MissingInputError(
        f"{address} cannot be read: {words}.", "Try again: an interrupted call goes on from what it has read."
    )


def to_os_error(address: str, error: BaseException) -> OSError | None:
    """A definite answer about one file of many, of which a record may name one that is not there; None for another."""
    kinds: dict[Answer, type[OSError]] = {"missing": FileNotFoundError, "refused": PermissionError}
    kind = kinds.get(classify(error))
    return None if kind is None else kind(2 if kind is FileNotFoundError else 13, describe_error(error), address)


def ask(address: str, question: Callable[[], T]) -> T:
    """What `question` returns, asked again after each of WAITS while the error may pass. Some clients try again
    themselves, or wait for long: after ENOUGH that is done once, and after FAR_ENOUGH not at all. Raises
    FileNotFoundError or PermissionError for a definite answer, InterlaceError for any other failure."""
    began = time.monotonic()
    for tried, seconds in enumerate((*WAITS, None)):
        try:
            return question()
        except (InterlaceError, TypeError, AttributeError):
            # Ours, or a bug.
            raise
        # The clients of all protocols: there is no class that all their errors have in common.
        except Exception as error:
            is_enough = time.monotonic() - began > (ENOUGH if tried else FAR_ENOUGH)
            if seconds is None or is_enough or classify(error) != "passing":
                raise to_os_error(address, error) or explain(address, error) from error
            time.sleep(seconds)
    raise AssertionError("the last try returns or raises")


def ask_or_explain(address: str, question: Callable[[], T]) -> T:
    """As `ask`, but a definite answer too is an InterlaceError: for what the user has named."""
    try:
        return ask(address, question)
    except InterlaceError:
        raise
    except OSError as error:
        raise explain(address, error.__cause__ or error) from error


def _iter_chain(error: BaseException) -> Iterator[BaseException]:
    """The error and those behind it."""
    one: BaseException | None = error
    for _ in range(DEPTH):
        if one is None:
            return
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)


def _find_cause(error: BaseException) -> BaseException:
    """The one that says most: the first with a status or words of its own behind a file that was not found."""
    chain = list(_iter_chain(error))
    return chain[1] if isinstance(error, FileNotFoundError) and len(chain) > 1 and str(chain[1]) else error


def _find_status(error: BaseException) -> int | None:
    """The HTTP status: of aiohttp (`status`), of the Hub's library (`response.status_code`), of botocore
    (`response["ResponseMetadata"]`), of gcsfs (`code`)."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):
        found = (response.get("ResponseMetadata") or {}).get("HTTPStatusCode")
    else:
        found = getattr(response, "status_code", None)
    for value in (found, getattr(error, "status", None), getattr(error, "code", None)):
        number = int(value) if isinstance(value, str) and value.isdecimal() else value
        if isinstance(number, int) and not isinstance(number, bool) and 100 <= number < 600:
            return number
    return None
