"""Running a model from any layer on, with any layers dropped, on a batch that it has seen before.

What a model computes before its first layer (embeddings, the vision tower, rotary tables) does not depend on which
layers are dropped; nor do the layers before the first dropped one. Both are computed once for a batch, recorded, and
returned from the recording afterwards. Layers are then called directly where that is the same (`calls.py`). Everything
else, such as what a model adds between layers, is computed by the model's own code.

Shape legend: B samples, T tokens, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from interlace_cli.families.calls import Calls, find_tail, move_tree, take_call
from interlace_cli.families.modules import find_prefix, get_hidden, get_output

Inputs = dict[str, Tensor]
Keep = Callable[[int, Tensor], None]
"""Callback for every layer that is run: its index, and the hidden state [B, T, H] that enters it."""


class Stop(Exception):  # noqa: N818 - not an error
    """Ends a forward early: raised before a layer, once the rest of the forward is not needed."""


@dataclass
class Recording:
    """A batch: its `inputs`, in `before` what each module outside the layers returned, in the order of its calls, and
    the `calls` of the layers."""

    inputs: Inputs
    before: dict[nn.Module, list[Any]] = field(default_factory=dict)
    calls: Calls = field(default_factory=Calls)

    def move(self, move: Callable[[Tensor], Tensor]) -> Recording:
        """The same with every tensor moved, each once."""
        moved: dict[int, Any] = {}
        calls = self.calls
        return Recording(
            move_tree(self.inputs, move, moved),
            move_tree(self.before, move, moved),
            Calls(
                move_tree(calls.by_layer, move, moved), calls.joined, calls.known, move_tree(calls.tail, move, moved)
            ),
        )


class Replay:
    """A model whose forward can start at any layer. `layer_runs` counts layers that were run, over all batches. With
    `is_direct` layers are called directly where they can be; the model then makes no cache of keys and values.

    Use inside `with replay:`, which replaces the modules' `forward`; on leaving, the model is as it was.
    """

    def __init__(self, model: nn.Module, layers: nn.ModuleList, is_direct: bool = False) -> None:
        self.model, self.layers, self.is_direct = model, layers, is_direct
        self.layer_runs = 0
        self._more = {"use_cache": False} if is_direct else {}
        prefix = find_prefix(model, layers)
        self._around = {prefix[:end] for end in range(len(prefix) + 1) if end in (0, len(prefix)) or prefix[end] == "."}
        name, dot, _ = prefix.partition(".")
        self._child = model.get_submodule(name) if dot else None
        self._last: Tensor | None = None
        self._after: list[tuple[nn.Module, Any, Any]] = []
        self._filled: Any = None
        self._recording: Recording | None = None
        self._is_replaying = False
        self._calls: dict[nn.Module, int] = {}
        self._start, self._drop = 0, frozenset[int]()
        self._hidden: Tensor | None = None
        self._keep: Keep | None = None
        self._stop: int | None = None
        self._seen_layers = False
        self._widths: dict[int, int] = {}
        self._patched: list[tuple[nn.Module, Callable[..., Any] | None]] = []

    def __enter__(self) -> Replay:
        for index, layer in enumerate(self.layers):
            self._patch(layer, _bind(self._call_layer, index, layer.forward))
        for module in self._iter_parts():
            self._patch(module, _bind(self._call_part, module, module.forward))
        if self.is_direct and self._child is not None:
            self._patch(self._child, _bind(self._call_child, self._child.forward))
        return self

    def __exit__(self, *error: object) -> None:
        for module, own in self._patched:
            del module.forward
            if own is not None:
                module.forward = own
        self._patched.clear()

    def record(
        self, inputs: Inputs, drop: Collection[int] = (), keep: Keep | None = None, stop: int | None = None
    ) -> tuple[Recording, Any]:
        """A whole forward without the layers `drop`. Returns the recording that `run` needs, and what `run` would
        return: the model's outputs, or the hidden state [B, T, H] before layer `stop`. `keep` is called for each
        layer."""
        recording = Recording(inputs)
        with self._set(recording, False, 0, None, drop, keep, stop):
            try:
                return recording, self.model(**inputs, **self._more)
            except Stop as stopped:
                return recording, stopped.args[0]

    def record_start(self, inputs: Inputs, is_whole: bool = False) -> tuple[Recording, Tensor]:
        """The recording, and the hidden state [B, T, H] before the first layer, at the cost of at most one layer: where
        layers can be called directly, the model passes over the others to learn how. With `is_whole` it goes on to its
        outputs, and learns what follows the layers too."""
        if self.is_direct:
            entering: dict[int, Tensor] = {}
            count = len(self.layers)
            stop = None if is_whole else count
            recording, _ = self.record(inputs, range(1, count), entering.__setitem__, stop)
            if 0 in entering:
                return recording, entering[0]
        return self.record(inputs, stop=0)

    def run(
        self,
        recording: Recording,
        start: int,
        hidden: Tensor | None,
        drop: Collection[int] = (),
        keep: Keep | None = None,
        stop: int | None = None,
    ) -> Any:
        """The forward from layer `start` on, without the layers `drop`; `hidden` [B, T, H] enters layer `start`.
        Returns the model's outputs, or, if `stop` is given, the hidden state [B, T, H] that would enter layer `stop`
        (`len(layers)` is after the last one). `keep` is called for each layer that is run."""
        indices = recording.calls.list_run(start, stop, len(self.layers)) if self.is_direct else None
        if hidden is not None and indices is not None:
            return self._run_direct(recording, indices, hidden, frozenset(drop), keep, stop)
        with self._set(recording, True, start, hidden, drop, keep, stop):
            try:
                return self.model(**recording.inputs, **self._more)
            except Stop as stopped:
                return stopped.args[0]

    def forget_parts(self, recording: Recording) -> None:
        """Gives up what the model's code between the head and the layers needs: runs from a layer on that only that
        code can do have to be recorded anew."""
        inside = set() if self._child is None else set(self._child.modules())
        recording.before = {module: made for module, made in recording.before.items() if module not in inside}
        recording.inputs = _leave_pictures(recording.inputs)

    def _run_direct(
        self,
        recording: Recording,
        indices: Sequence[int],
        hidden: Tensor,
        drop: frozenset[int],
        keep: Keep | None,
        stop: int | None,
    ) -> Any:
        calls = recording.calls.by_layer
        first = calls[indices[0]] if indices else None
        if first is not None:
            hidden = hidden.to(first.device, non_blocking=True)
        for index in indices:
            call = calls[index]
            if index in drop or call is None:
                continue
            if keep is not None:
                keep(index, hidden)
            self.layer_runs += 1
            hidden = call.run(self.layers[index], hidden)
        if stop is not None:
            return hidden
        assert recording.calls.tail is not None
        filled = recording.calls.tail.run(hidden)
        with self._set(recording, True, 0, None, (), None, None):
            self._filled = filled
            return self.model(**_leave_pictures(recording.inputs), **self._more)

    @contextmanager
    def _set(
        self,
        recording: Recording,
        is_replaying: bool,
        start: int,
        hidden: Tensor | None,
        drop: Collection[int],
        keep: Keep | None,
        stop: int | None,
    ) -> Iterator[None]:
        self._recording, self._is_replaying, self._start, self._hidden = recording, is_replaying, start, hidden
        self._drop, self._keep, self._stop = frozenset(drop), keep, stop
        self._calls, self._seen_layers = {}, False
        try:
            yield
        finally:
            self._recording, self._hidden, self._keep = None, None, None
            self._last, self._after, self._filled = None, [], None

    def _patch(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        # A torch hook cannot skip the forward that it belongs to; an attribute of the instance replaces it.
        self._patched.append((module, vars(module).get("forward")))
        module.forward = forward

    def _iter_parts(self) -> Iterator[nn.Module]:
        """The outermost modules that do not contain the layers: embeddings, vision tower, rotary tables, head."""
        for name, module in self.model.named_modules():
            if name not in self._around and name.rpartition(".")[0] in self._around and module not in self.layers:
                yield module

    def _call_part(self, module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        recording = self._recording
        if recording is None or self._seen_layers:
            made = forward(*args, **kwargs)
            if self.is_direct and recording is not None:
                self._after.append((module, args[0] if len(args) == 1 and not kwargs else None, made))
            return made
        if not self._is_replaying:
            made = forward(*args, **kwargs)
            # A copy: some models fill in the fields of what a part has returned.
            recording.before.setdefault(module, []).append(copy(made))
            return made
        call = self._calls[module] = self._calls.get(module, -1) + 1
        return copy(recording.before[module][call])

    def _call_child(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The module between the whole model and its head that holds the layers."""
        if self._filled is not None:
            self._seen_layers = True
            return self._filled
        made = forward(*args, **kwargs)
        if self._recording is not None and self._recording.calls.tail is None and self._last is not None:
            calls = self._recording.calls
            calls.known, calls.tail = len(self.layers), find_tail(self._last, self._after, made)
        return made

    def _call_layer(self, index: int, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._seen_layers = True
        if self._recording is None:
            return forward(*args, **kwargs)
        if not self.is_direct:
            return self._run_layer(index, forward, args, kwargs)
        is_joined = get_hidden(args, kwargs) is self._last
        self._recording.calls.add(index, take_call(args, kwargs), is_joined)
        output = self._run_layer(index, forward, args, kwargs)
        self._last, self._after = get_output(output), []
        return output

    def _run_layer(self, index: int, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs the layer, passes over it or ends the forward, as the run in progress wants it."""
        if self._is_replaying and index < self._start:
            return self._pass_on(index, get_hidden(args, kwargs))
        # A forward may skip layers (Llama 3.2 Vision's cross-attention, without a picture): the next one takes their
        # place.
        if self._is_replaying and self._hidden is not None:
            args, kwargs = _put_hidden(self._hidden, args, kwargs)
            self._hidden = None
        hidden = get_hidden(args, kwargs)
        if self._stop is not None and index >= self._stop:
            raise Stop(hidden)
        if index in self._drop:
            if not self._widths:
                # No layer has run yet: what one returns is asked of this one.
                self._learn_width(index, forward(*args, **kwargs))
            output = self._pass_on(index, hidden)
        else:
            if self._keep is not None:
                self._keep(index, hidden)
            self.layer_runs += 1
            output = forward(*args, **kwargs)
            self._learn_width(index, output)
        if index + 1 == self._stop == len(self.layers):
            raise Stop(output[0] if isinstance(output, tuple) else output)
        return output

    def _learn_width(self, index: int, output: Any) -> None:
        self._widths[index] = len(output) if isinstance(output, tuple) else 0

    def _pass_on(self, index: int, hidden: Tensor) -> Any:
        """The hidden state as this layer returns it: alone, or as the first entry of a tuple. One that has not run
        returns it as the others do."""
        width = self._widths.get(index, next(iter(self._widths.values()), 0))
        return (hidden, *[None] * (width - 1)) if width else hidden


def _bind(call: Callable[..., Any], *first: Any) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        return call(*first, *args, **kwargs)

    return forward


def _leave_pictures(inputs: Inputs) -> Inputs:
    """What the head is given: pixels are for towers alone."""
    return {name: value for name, value in inputs.items() if not value.is_floating_point()}


def _put_hidden(
    hidden: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if args:
        return (hidden.to(args[0].device, non_blocking=True), *args[1:]), kwargs
    name = "hidden_states" if "hidden_states" in kwargs else "hidden_state"
    return args, {**kwargs, name: hidden.to(kwargs[name].device, non_blocking=True)}
