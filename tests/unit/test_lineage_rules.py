"""Whether results belong together, and what a checkpoint has seen: pure rules, told by small records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_records import FACTS, build_card, build_evaluation
from split_samples import split_samples

from interlace_cli.core.lineage import (
    Member,
    Seen,
    check_mismatches,
    check_overlap,
    count_seen,
    find_lacking_keys,
    find_mismatches,
    find_strangers,
    load_card,
    read_keys,
)
from interlace_cli.data.source import Selection
from interlace_cli.domain.dataset import Sample
from interlace_cli.domain.evaluation import Evaluation
from interlace_cli.domain.layers import Role
from interlace_cli.domain.plan import Plan
from interlace_cli.errors import CheckpointError, OverlapError, PlanMismatchError
from interlace_cli.io.artifacts import save_artifact
from interlace_cli.io.sample_keys import (
    CALIBRATED,
    SAMPLE_KEYS,
    TRAINED,
    build_keys,
    find_seen,
    join_keys,
    list_keys,
    load_keys,
    save_keys,
)
from interlace_cli.report.caveats import describe_overlap

DENSE, OTHER = "a" * 64, "b" * 64
CUT, RECUT = "c" * 64, "d" * 64


def dense(name: str = "dense", fingerprint: str = DENSE) -> Member:
    return Member(name, fingerprint)


def pruned(name: str = "pruned", fingerprint: str = CUT, drop: tuple[int, ...] = (3, 5), **fields: Any) -> Member:
    return Member(name, fingerprint, build_card(**describe_cut(drop), strategy="interlace", **fields))


def healed(name: str = "healed", of: str = CUT, drop: tuple[int, ...] = (3, 5), **fields: Any) -> Member:
    card = build_card(stage="healed", inputs={"model": DENSE, "pruned": of}, **describe_cut(drop), **fields)
    return Member(name, "e" * 64, card)


def describe_cut(drop: tuple[int, ...]) -> dict[str, Any]:
    return {"dropped": list(drop), "dense_index": [layer for layer in range(8) if layer not in drop]}


def of_another() -> dict[str, Any]:
    return {"base": {**FACTS, "name": "stranger", "fingerprint": OTHER}}


def build_plan(drop: tuple[int, ...]) -> Plan:
    roles = [Role.DROP if layer in drop else Role.KEEP for layer in range(8)]
    return Plan.model_construct(drop=list(drop), roles=roles)


# Mismatches


def test_a_family_belongs_together() -> None:
    assert find_mismatches([dense(), pruned(), healed()]) == []
    assert find_mismatches([dense(), pruned(), healed()], build_plan((3, 5))) == []
    assert find_mismatches([pruned(), healed()]) == []
    assert find_mismatches([healed()]) == []
    assert find_mismatches([]) == []
    assert find_mismatches([dense(), dense("another", OTHER)]) == [], "of two models nobody says that they belong"


def test_a_healed_one_of_another_cut_is_told_with_both_cuts() -> None:
    found = find_mismatches([dense(), pruned(fingerprint=RECUT, drop=(3,)), healed()])
    assert found == [
        "healed and pruned do not belong together: healed was healed from another pruned checkpoint (healed lacks"
        " layers 3, 5, pruned lacks 3)"
    ]
    same = find_mismatches([dense(), pruned(fingerprint=RECUT), healed()])
    assert len(same) == 1
    assert "the weights differ" in same[0]


def test_a_healed_one_needs_one_parent_among_the_cuts() -> None:
    both = [dense(), pruned("short", RECUT, (3,)), pruned(), healed()]
    assert find_mismatches(both) == []
    assert find_mismatches([dense(), healed(), pruned()]) == [], "in whatever order"
    assert find_mismatches([dense(), healed()]) == [], "its parent need not be there"
    two = find_mismatches([dense(), pruned(), healed(), healed("second", RECUT, (3,))])
    assert len(two) == 1
    assert two[0].startswith("second and pruned do not belong together")


@pytest.mark.parametrize("member", [pruned(**of_another()), healed(**of_another())])
def test_a_checkpoint_of_another_dense_model_is_told(member: Member) -> None:
    found = find_mismatches([dense(), member])
    assert found == [
        f"{member.name} and dense do not belong together: {member.name} comes from stranger (bbbbbbbbbbbb), and dense"
        " is another model (aaaaaaaaaaaa)"
    ]
    assert find_mismatches([dense("stranger", OTHER), member]) == []


def test_the_first_may_be_a_cut_itself() -> None:
    assert find_mismatches([pruned(), pruned("short", RECUT, (3,)), healed()]) == []
    found = find_mismatches([pruned(), healed(**of_another())])
    assert len(found) == 1
    assert "healed comes from stranger" in found[0]


def test_a_cut_by_another_plan_is_told_unless_it_was_made_by_hand() -> None:
    assert find_mismatches([pruned(), healed()], build_plan((3,))) == [
        "pruned and the plan do not belong together: the plan drops layers 3, and pruned was cut by 3, 5"
    ]
    by_hand = Member("pruned", CUT, build_card(strategy="by hand"))
    assert find_mismatches([by_hand], build_plan((3,))) == []


def test_mismatches_are_refused_or_said() -> None:
    members = [dense(), pruned(fingerprint=RECUT, drop=(3,)), healed()]
    with pytest.raises(PlanMismatchError, match="--allow-mismatch") as caught:
        check_mismatches(members, is_allowed=False)
    assert "healed and pruned do not belong together" in caught.value.what
    assert check_mismatches(members, is_allowed=True) == find_mismatches(members)
    assert check_mismatches([dense(), pruned(), healed()], is_allowed=False) == []


def test_a_folder_says_what_it_is(tmp_path: Path) -> None:
    assert load_card(tmp_path) is None
    save_artifact(build_card(), tmp_path / "interlace.json")
    card = load_card(tmp_path)
    assert card is not None
    assert card.dropped == [3, 5]


# An evaluation's rows


def evaluate(*rows: tuple[str, str, int], **seen: int) -> Evaluation:
    results = [
        {
            "name": name,
            "location": "",
            "fingerprint": fingerprint,
            "layers": layers,
            "parameters": 1,
            "bytes": 1,
            "score": 0.0,
            "loss": None,
            "kinds": {"all": 0.0},
            **seen,
        }
        for name, fingerprint, layers in rows
    ]
    return build_evaluation(results=results, samples={"all": 12})


def test_rows_of_the_same_family_are_no_strangers() -> None:
    card = healed().card
    assert card is not None
    assert find_strangers(card, evaluate(("dense", DENSE, 8), ("pruned", CUT, 6), ("healed", "e" * 64, 6))) == []
    assert find_strangers(card, evaluate(("pruned", CUT, 6), ("healed", "e" * 64, 6))) == []
    assert find_strangers(card, evaluate()) == [], "benchmarks alone"


def test_rows_of_others_are_strangers() -> None:
    card = healed().card
    assert card is not None
    found = find_strangers(card, evaluate(("dense", OTHER, 8), ("healed", "e" * 64, 6)))
    assert found == [
        "the evaluation and the healed checkpoint do not belong together: it compares with dense (bbbbbbbbbbbb), and"
        " the checkpoint comes from tiny (aaaaaaaaaaaa)"
    ]
    found = find_strangers(card, evaluate(("dense", DENSE, 8), ("pruned", RECUT, 7), ("healed", "e" * 64, 6)))
    assert found == [
        "pruned in the evaluation and the healed checkpoint do not belong together: it has 7 layers, and is not the one"
        " that was healed (6 layers)"
    ]


# Keys of samples


def build_sample(*images: str, said: str = "red", asked: str = "Which color?", **fields: Any) -> Sample:
    turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": said}]
    return Sample.model_validate({"id": "1", "image": list(images), "conversations": turns, "source": "one", **fields})


def test_a_sample_with_images_is_known_by_each_of_them() -> None:
    one = list_keys(build_sample("a.png"))
    assert one == list_keys(build_sample("a.png", said="blue", id="2", source="two")), "whatever is said of it"
    assert list_keys(build_sample("a.png", "b.png")) == one + list_keys(build_sample("b.png"))
    assert one != list_keys(build_sample("b.png"))
    assert all(0 <= key < 2**64 for key in one)


def test_a_sample_without_images_is_known_by_what_is_said() -> None:
    one = list_keys(build_sample())
    assert len(one) == 1
    assert one == list_keys(build_sample(id="2", source="two", kind="other", answers=["red"]))
    assert one == list_keys(build_sample(asked=" Which\n color? "))
    others = [build_sample(said="blue"), build_sample(asked="which color?"), build_sample(said="red red")]
    swapped = [{"from": "human", "value": "red"}, {"from": "gpt", "value": "Which color?"}]
    others.append(build_sample().model_copy(update={"conversations": build_sample().conversations[::-1]}))
    others.append(Sample.model_validate({"id": "1", "image": [], "conversations": swapped, "source": "one"}))
    keys = [one[0], *(list_keys(other)[0] for other in others)]
    assert len(set(keys)) == len(keys)


def test_text_and_images_are_not_taken_for_each_other() -> None:
    """The same question is asked of many images: that it was seen with one does not make the others seen."""
    trained = build_keys([build_sample("a.png")])
    assert find_seen(trained, [build_sample("b.png"), build_sample()]) == []
    assert find_seen(build_keys([build_sample()]), [build_sample("a.png"), build_sample()]) == [1]


def test_keys_are_a_sorted_set() -> None:
    samples = [build_sample(f"{index % 7}.png") for index in range(20)]
    keys = build_keys(samples)
    assert keys.dtype == np.uint64
    assert keys.tolist() == sorted({key for sample in samples for key in list_keys(sample)})
    assert len(keys) == 7
    assert build_keys(reversed(samples)).tolist() == keys.tolist()
    assert build_keys([]).tolist() == []


def test_each_seen_sample_counts_once() -> None:
    keys = build_keys([build_sample("a.png"), build_sample("b.png")])
    judged = [build_sample("a.png", "b.png"), build_sample("c.png"), build_sample("c.png", "b.png"), build_sample()]
    assert find_seen(keys, judged) == [0, 2]


def test_a_list_is_saved_with_the_same_bytes_and_opened_again(tmp_path: Path) -> None:
    keys = {TRAINED: build_keys([build_sample("a.png")]), CALIBRATED: build_keys([build_sample()])}
    assert load_keys(tmp_path) == {}
    assert count_seen(tmp_path, [build_sample()]) == Seen(0, 0)
    save_keys(tmp_path, keys)
    first = (tmp_path / SAMPLE_KEYS).read_bytes()
    save_keys(tmp_path, dict(reversed(keys.items())))
    assert (tmp_path / SAMPLE_KEYS).read_bytes() == first
    found = load_keys(tmp_path)
    assert {name: one.tolist() for name, one in found.items()} == {name: one.tolist() for name, one in keys.items()}
    judged = [build_sample("a.png"), build_sample("a.png", "b.png"), build_sample(), build_sample("c.png")]
    assert count_seen(tmp_path, judged) == Seen(trained=2, calibrated=1)
    save_keys(tmp_path, {CALIBRATED: keys[CALIBRATED]})
    assert count_seen(tmp_path, judged) == Seen(trained=0, calibrated=1)


@pytest.mark.parametrize("data", [b"", b"PK", b"no list", b"PK\x03\x04" + b"\0" * 60])
def test_a_broken_list_is_told_and_may_be_written_again(data: bytes, tmp_path: Path) -> None:
    (tmp_path / SAMPLE_KEYS).write_bytes(data)
    with pytest.raises(CheckpointError, match=SAMPLE_KEYS):
        load_keys(tmp_path)
    assert read_keys(tmp_path) == {}
    assert find_lacking_keys(tmp_path, {TRAINED: build_keys([build_sample()])})


def test_lists_are_joined_by_what_was_done() -> None:
    a, b = build_keys([build_sample("a.png")]), build_keys([build_sample("b.png"), build_sample("a.png")])
    joined = join_keys({TRAINED: a, CALIBRATED: b}, {}, {TRAINED: b})
    assert {name: one.tolist() for name, one in joined.items()} == {TRAINED: b.tolist(), CALIBRATED: b.tolist()}
    assert join_keys({}, {}) == {}


def test_a_list_that_has_what_is_wanted_lacks_nothing(tmp_path: Path) -> None:
    a, b = build_keys([build_sample("a.png")]), build_keys([build_sample("b.png")])
    assert find_lacking_keys(tmp_path, {}) == []
    assert len(find_lacking_keys(tmp_path, {TRAINED: a})) == 1
    save_keys(tmp_path, {TRAINED: a, CALIBRATED: b})
    assert find_lacking_keys(tmp_path, {TRAINED: a}) == find_lacking_keys(tmp_path, {CALIBRATED: b}) == []
    assert len(find_lacking_keys(tmp_path, {TRAINED: b})) == 1
    assert len(find_lacking_keys(tmp_path, {TRAINED: join_keys({TRAINED: a}, {TRAINED: b})[TRAINED]})) == 1


# Overlap


def test_what_was_seen_is_refused_or_said() -> None:
    seen = {"dense": Seen(), "pruned": Seen(0, 2), "healed": Seen(8, 2)}
    sentences = [
        "pruned was calibrated on 2 of the 12 samples that it is judged on",
        "healed was trained on 8 of the 12 samples that it is judged on",
        "healed was calibrated on 2 of the 12 samples that it is judged on",
    ]
    assert check_overlap(seen, 12, is_allowed=True) == sentences
    with pytest.raises(OverlapError, match="--allow-overlap") as caught:
        check_overlap(seen, 12, is_allowed=False)
    assert all(sentence in caught.value.what for sentence in sentences)
    clean = {"dense": Seen(), "healed": Seen()}
    assert check_overlap(clean, 12, is_allowed=False) == check_overlap(clean, 12, is_allowed=True) == []


def test_a_card_says_what_was_seen() -> None:
    rows = ("dense", DENSE, 8), ("healed", "e" * 64, 6)
    assert describe_overlap(evaluate(*rows)) == []
    assert describe_overlap(evaluate(*rows[1:], trained_on=8, calibrated_on=1)) == [
        "healed was trained on 8 of these 12 samples.",
        "healed was calibrated on 1 of these 12 samples.",
    ]


def test_what_says_the_same_is_in_one_split() -> None:
    """Of samples without images; else one that is held out would have been trained on."""
    samples = [(str(index), ()) for index in range(30)]
    texts = {str(index): f"text {index % 10}" for index in range(30)}
    for seed in range(5):
        selection = Selection(seed=seed, holdout=0.3, calibration=0.3)
        splits = split_samples(samples, selection, texts)
        homes = {(texts[name], split) for name, split in splits.items()}
        assert len(homes) == 10
        assert {split for _, split in homes} == {"train", "calibration", "heldout"}
        assert split_samples(samples[::-1], selection, texts) == splits
        unique = {name: name for name in texts}
        assert split_samples(samples, selection, unique) == split_samples(samples, selection), "as it always was"
