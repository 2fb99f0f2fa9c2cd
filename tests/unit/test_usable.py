"""Which samples a model can be given is found before the first step, and said."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, local
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from workspaces import call, refuse, succeed, write_source

from interlace_cli.data import usable as finding
from interlace_cli.data.batches import IGNORE, Batcher
from interlace_cli.data.found import FoundFile
from interlace_cli.data.usable import PromptLengths, find_reach, find_usable
from interlace_cli.demo import CHECKPOINT
from interlace_cli.domain.dataset import Sample
from interlace_cli.domain.progress import Silent
from interlace_cli.errors import CheckpointError, DatasetError
from interlace_cli.io.datasets import load_split
from interlace_cli.io.models import load_processor
from interlace_cli.runtime import gather_bytes
from interlace_cli.runtime.processes import Processes

FAILS = "{% for m in messages %}{% if 'WRONG' in m.content | string %}{{ raise_exception('no WRONG here') }}{% endif %}"


def write_mixed(folder: Path, count: int, long: int, words: int = 120) -> Path:
    """A source whose first `long` questions have `words` words."""
    path = write_source(folder, count=count)
    records = json.loads(path.read_text())
    for record in records[:long]:
        record["conversations"][0]["value"] += " word" * words
    path.write_text(json.dumps(records))
    return path


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixed")
    succeed("prepare", write_mixed(folder, 24, 10), "--out", folder / "dataset", "--holdout", 0, "--calibration", 0)
    return folder / "dataset"


def heal(pruned: Path, dataset: Path, out: Path, *more: object) -> list[object]:
    words = ["finetune", pruned, "--dataset", dataset, "--tune-layers", "3,5", "--out", out, "--device", "cpu"]
    return [*words, "--batch-size", 1, "--grad-accum", 1, *more]


def test_samples_without_an_answer_within_the_bound_make_no_steps(pruned: Path, mixed: Path, tmp_path: Path) -> None:
    done = succeed(*heal(pruned, mixed, tmp_path / "out", "--max-length", 60, "--json"))
    healing = done.json["healing"]
    assert healing["left_out"] == {"no answer within 60 tokens": 10}
    assert (healing["samples"], healing["steps"]) == (14, 14)
    assert all(loss > 0 for _, loss in healing["curve"])
    assert "10 of 24 train samples have no answer within 60 tokens and are left out; raise --max-length." in done.said
    refused = refuse(*heal(pruned, mixed, tmp_path / "no", "--max-length", 20))
    assert "24 of 24 train samples have no answer within 20 tokens" in refused
    assert "Raise --max-length" in refused
    assert not (tmp_path / "no").exists()


def test_the_lengths_are_those_of_the_encoded_samples(chain_model: Path, mixed: Path) -> None:
    """Found by the text and the size of the pictures; the truth is the encoding itself."""
    samples = load_split(mixed, "train")
    batcher = Batcher(load_processor(chain_model), mixed)
    lengths = PromptLengths(batcher)
    for sample in samples:
        (sequence,) = batcher.render(sample)
        assert lengths.count(sample, sequence) == batcher.build_prompts([sample])["input_ids"].shape[1]
    for bound in (40, 60, 150):
        bounded = Batcher(load_processor(chain_model), mixed, bound)
        labelled = [s.id for s in samples if (bounded.build_conversations([s])["labels"] != IGNORE).any()]
        try:
            found = [sample.id for sample in find_usable(bounded, samples, "samples", Silent()).samples]
        except DatasetError:
            found = []
        assert found == labelled


def test_an_answer_that_is_partly_within_is_kept_and_counted(chain_model: Path, mixed: Path) -> None:
    sample = load_split(mixed, "train")[0]
    length = Batcher(load_processor(chain_model), mixed).build_conversations([sample])["input_ids"].shape[1]
    # The last token is the line break behind the end of the turn, which is no label.
    for cut, shortened in ((1, 0), (2, 1)):
        usable = find_usable(Batcher(load_processor(chain_model), mixed, length - cut), [sample], "s", Silent())
        assert (len(usable.samples), usable.shortened) == (1, shortened)
        assert usable.describe("s", length - cut) == (
            f"1 of 1 s lose the end of an answer to --max-length {length - cut}." if shortened else ""
        )


@given(
    st.integers(0, 20),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)).map(lambda p: (max(p), min(p))), max_size=5),
    st.integers(0, 60),
)
def test_the_share_within_is_that_of_the_labels_counted_one_by_one(
    prompt: int, pieces: list[tuple[int, int]], bound: int
) -> None:
    row = [False] * prompt + [i < labels for tokens, labels in pieces for i in range(tokens)]
    wanted = sum(row[:bound]) / sum(row) if any(row) else 0.0
    assert find_reach(prompt, pieces, bound) == wanted


def build_odd(dataset: Path, wrong: int) -> tuple[Batcher, list[Sample]]:
    processor = load_processor(CHECKPOINT)
    body = processor.chat_template.partition("{%- for")
    processor.chat_template = f"{FAILS}{{% endfor %}}{''.join(body)}"
    samples = load_split(dataset, "train")[:6]
    turns = [{"from": "human", "value": "WRONG?"}, {"from": "gpt", "value": "yes"}]
    odd = {"conversations": turns, "image": []}
    changed = [Sample.model_validate({**s.model_dump(by_alias=True), **odd}) for s in samples[:wrong]]
    return Batcher(processor, dataset), [*changed, *samples[wrong:]]


def test_what_the_template_cannot_take_is_left_out_by_reason(small_dataset: Path) -> None:
    batcher, samples = build_odd(small_dataset, 2)
    usable = find_usable(batcher, samples, "train samples", Silent())
    assert usable.samples == samples[2:]
    ((reason, count),) = usable.left_out.items()
    assert "no WRONG here" in reason
    assert count == 2
    assert usable.describe("train samples", None).startswith("2 of 6 train samples are left out: the chat template")


def test_if_all_fail_alike_the_models_files_are_at_fault(small_dataset: Path) -> None:
    batcher, samples = build_odd(small_dataset, 6)
    with pytest.raises(CheckpointError, match="none of the 6 train samples") as caught:
        find_usable(batcher, samples, "train samples", Silent())
    assert "not at the data" in caught.value.fix


def test_analyze_measures_what_the_model_can_be_given(chain_model: Path, tmp_path: Path) -> None:
    import shutil

    source = write_source(tmp_path / "in", count=12)
    records = json.loads(source.read_text())
    for record in records[::2]:
        record["conversations"][0]["value"] += " WRONG"
    source.write_text(json.dumps(records))
    succeed("prepare", source, "--out", tmp_path / "dataset", "--holdout", 0, "--calibration", 0.9)
    split = load_split(tmp_path / "dataset", "calibration")
    odd = sum("WRONG" in sample.question for sample in split)
    model = Path(shutil.copytree(chain_model, tmp_path / "model"))
    template = (model / "chat_template.jinja").read_text()
    (model / "chat_template.jinja").write_text(f"{FAILS}{{% endfor %}}{template}")
    done = succeed("analyze", model, "--dataset", tmp_path / "dataset", "--out", tmp_path / "a.json", "--json")
    calibration = done.json["calibration"]
    assert 0 < odd == len(split) - calibration["samples"]
    assert list(calibration["left_out"].values()) == [odd]
    assert f"{odd} of {len(split)} calibration samples are left out" in done.said
    assert call("analyze", model, "--dataset", tmp_path / "dataset", "--out", tmp_path / "a.json").code == 0


class Ranks:
    """Threads that stand for processes: each has its rank, and what one tells the others is seen by all."""

    def __init__(self, size: int) -> None:
        self.own, self.barrier, self.said = local(), Barrier(size), [None] * size

    def find(self) -> Processes:
        return Processes(self.own.rank, len(self.said), self.own.rank)

    def gather(self, topic: str, value: Any) -> list[Any]:
        self.said[self.own.rank] = pickle.loads(pickle.dumps(value))
        self.barrier.wait(60)
        found = list(self.said)
        self.barrier.wait(60)
        return found

    def run(self, work: Callable[[], Any]) -> list[Any]:
        def start(rank: int) -> Any:
            self.own.rank = rank
            return work()

        with ThreadPoolExecutor(len(self.said)) as pool:
            return list(pool.map(start, range(len(self.said))))


@pytest.mark.parametrize("max_length", [None, 40])
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_look_at_a_share_each_and_find_the_same(
    processes: int, max_length: int | None, chain_model: Path, small_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = load_split(small_dataset, "train")[:20]
    processor = load_processor(chain_model)
    alone = find_usable(Batcher(processor, small_dataset, max_length), samples, "samples", Silent())
    ranks, looked = Ranks(processes), []
    monkeypatch.setattr(finding, "find_processes", ranks.find)
    monkeypatch.setattr(finding, "gather_values", ranks.gather)
    monkeypatch.setattr(gather_bytes, "gather_values", ranks.gather)
    monkeypatch.setattr(gather_bytes, "BLOCK", 16)
    measure = finding._measure

    def note(batcher: Batcher, lengths: Any, sample: Sample, sequence: Any) -> Any:
        looked.append(sample.id)
        return measure(batcher, lengths, sample, sequence)

    monkeypatch.setattr(finding, "_measure", note)

    def look() -> finding.Usable:
        own = Batcher(load_processor(chain_model), small_dataset, max_length)
        return find_usable(own, samples, "samples", Silent(), is_dealt=True)

    for found in ranks.run(look):
        assert found.samples == alone.samples
        assert (found.left_out, found.shortened) == (alone.left_out, alone.shortened)
        assert found.tokens.tolist() == alone.tokens.tolist()
        assert found.labels.tolist() == alone.labels.tolist()
    assert sorted(looked) == sorted(sample.id for sample in samples)
    assert max_length is None or len(alone.tokens) == len(alone.samples)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_call_that_is_started_once_more_renders_none_again(
    processes: int, chain_model: Path, small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, ranks, looked = load_split(small_dataset, "train")[:20], Ranks(processes), []
    monkeypatch.setattr(finding, "find_processes", ranks.find)
    monkeypatch.setattr(finding, "gather_values", ranks.gather)
    monkeypatch.setattr(gather_bytes, "gather_values", ranks.gather)
    measure, processor = finding._measure, load_processor(chain_model)
    monkeypatch.setattr(finding, "_measure", lambda *given: looked.append(given[2].id) or measure(*given))
    file = FoundFile(tmp_path / "state/usable.npz", {"max_length": 40})

    def look(kept: FoundFile = file, count: int = 20) -> tuple[Any, ...]:
        def ask() -> finding.Usable:
            return find_usable(Batcher(processor, small_dataset, 40), samples[:count], "x", Silent(), True, kept)

        looked.clear()
        found = ranks.run(ask)
        return (
            [[*one.samples] for one in found],
            [(one.tokens.tolist(), one.labels.tolist()) for one in found],
            [(one.left_out, one.shortened) for one in found],
        )

    first = look()
    assert sorted(looked) == sorted(sample.id for sample in samples)
    data = file.path.read_bytes()
    assert look() == first
    assert looked == [], "samples were rendered again"
    assert look(FoundFile(file.path, {"max_length": 41})) == first
    assert len(looked) == 20, "what was found for another bound was taken"
    for broken in (data[:-30], b"", data[:100] + bytes([data[100] ^ 1]) + data[101:]):
        file.path.write_bytes(broken)
        assert look() == first
        assert len(looked) == 20
        assert file.path.read_bytes() == data
    look(count=19)
    assert len(looked) == 19
    monkeypatch.setattr("interlace_cli.data.found.find_versions", lambda names: dict.fromkeys(names, "another"))
    file.path.write_bytes(data)
    assert look() == first
    assert len(looked) == 20, "what other versions had found was taken"
