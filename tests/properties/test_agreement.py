"""What processes tell each other before they begin: a difference is found wherever it is, and said with both values."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from interlace_cli.runtime.agreement import describe_difference, find_difference, find_versions

NAMES = st.sampled_from(["the dataset", "torch", "--lr", "the pruned checkpoint"])
FACTS = st.dictionaries(NAMES, st.text("0123456789abcdef", max_size=3), max_size=4)


@given(FACTS, st.integers(1, 8))
def test_equal_facts_agree(facts: dict[str, str], size: int) -> None:
    everywhere = [dict(reversed(facts.items())) for _ in range(size)]
    assert find_difference(everywhere) is None
    assert describe_difference(everywhere, ["host"] * size) is None


@given(st.lists(FACTS, min_size=1, max_size=6))
def test_a_difference_is_found_exactly_where_there_is_one(facts: list[dict[str, str]]) -> None:
    found = find_difference(facts)
    assert (found is None) == all(own == facts[0] for own in facts)
    if found is not None:
        name, rank = found
        assert facts[rank].get(name) != facts[0].get(name)
        assert all(own.get(name) == facts[0].get(name) for own in facts[:rank]), "the first rank that has another"


@given(FACTS, NAMES, st.integers(2, 6), st.data())
def test_one_rank_of_another_kind_is_named_with_both_values(
    facts: dict[str, str], name: str, size: int, data: st.DataObject
) -> None:
    odd = data.draw(st.integers(1, size - 1))
    everywhere = [{**facts, name: "here"} for _ in range(size)]
    everywhere[odd][name] = "there"
    hosts = [f"host-{rank}" for rank in range(size)]
    said = describe_difference(everywhere, hosts)
    assert said == (
        f"the processes do not agree on {name}: here on process 1 of {size} (rank 0 on host-0), and there on process"
        f" {odd + 1} of {size} (rank {odd} on host-{odd})."
    )


def test_values_are_shown_as_short_as_they_can_be() -> None:
    said = describe_difference([{"a": "f" * 64}, {"a": "0" * 64}, {}], ["x", "y", "z"])
    assert said is not None
    assert f": {'f' * 12} on" in said
    assert f"and {'0' * 12} on" in said
    assert "(1 more" in said
    assert "none on process 2" in str(describe_difference([{"a": "1"}, {}], ["x", "y"]))
    assert len(str(describe_difference([{"a": "long " * 99}, {"a": ""}], ["x", "y"]))) < 200


def test_versions_are_those_that_are_installed() -> None:
    import torch

    assert find_versions(["torch", "no-such-package"]) == {"torch": torch.__version__, "no-such-package": "none"}
