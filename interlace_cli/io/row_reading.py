"""Which of a model's tensors can be read from its files in parts, some rows (dimension 0) at a time.

transformers converts some tensors as it reads them: a file may have the query, key and value projections in one tensor
and experts one by one. Where a process holds only some rows, transformers reads only those rows of what is in the file
and then converts them, which is right for a conversion that leaves rows where they are, and wrong, without a word, for
others: the first half of [query; key; value] is not the first half of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def find_mixed_rows(model: Any) -> Callable[[str], bool]:
    """Whether the parameter of a name has to be read whole, if it is read by a conversion of transformers."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter

    mixing = []
    for transform in get_model_conversion_mapping(model):
        if isinstance(transform, WeightConverter) and not all(map(leaves_rows, transform.operations)):
            mixing.append(transform.reverse_transform())
    return lambda name: any(transform.rename_source_key(name)[1] is not None for transform in mixing)


def leaves_rows(operation: Any) -> bool:
    """Whether what it does to some rows is what it does to these rows of the whole. What is not known is not."""
    from transformers import core_model_loading as loading

    if isinstance(operation, loading.MergeModulelist):
        # transformers itself leaves out the experts that are not this process's.
        return operation.dim == 0
    if isinstance(operation, loading.Transpose):
        return 0 not in (operation.dim0, operation.dim1)
    along = (loading.Chunk, loading.Split, loading.Concatenate, loading.Interleave)
    return isinstance(operation, along) and operation.dim > 0


@contextmanager
def shapes_of_parts() -> Iterator[None]:
    """Inside the context, a conversion that looks whether a tensor still has to be transposed compares it with this
    process's part of the parameter. transformers compares it with the whole, and transposes each part."""
    from transformers.core_model_loading import Transpose

    own = Transpose.convert

    def convert(self: Any, *args: Any, model: Any = None, **kwargs: Any) -> Any:
        return own(self, *args, model=_Parts(model), **kwargs)

    Transpose.convert = convert
    try:
        yield
    finally:
        Transpose.convert = own


class _Parts:
    """A model as `Transpose` asks it."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def get_parameter(self, name: str) -> Any:
        """This process's part."""
        found = self.model.get_parameter(name)
        return getattr(found, "_local_tensor", found)
