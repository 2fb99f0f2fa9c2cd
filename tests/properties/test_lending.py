"""What processes that lend each other weights do in each round: pure, so that no process is started."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from interlace_cli.runtime.lending import Post, Wish, choose, slice_rows

UNITS = st.integers(0, 3)
WORK = st.one_of(
    st.builds(Post, st.just(Wish.GATHER), UNITS, UNITS), st.builds(Post, st.just(Wish.STORE), UNITS, UNITS)
)
PROGRAMS = st.lists(st.lists(WORK, max_size=6), min_size=1, max_size=6)


@given(PROGRAMS)
def test_whatever_each_needs_all_come_to_the_end(programs: list[list[Post]]) -> None:
    """Each gets what it asks for in its own order, changes are made one at a time, and no round is for nothing."""
    at, rounds = [0] * len(programs), 0
    while True:
        posts = [own[at[rank]] if at[rank] < len(own) else Post() for rank, own in enumerate(programs)]
        choice = choose(posts)
        assert choice == choose(list(posts))
        assert choice.ranks
        assert all(posts[rank] == choice.post for rank in choice.ranks)
        if choice.post.wish is Wish.NOTHING:
            break
        wishes = {post.wish for post in posts}
        assert (choice.post.wish is Wish.STORE) == (Wish.STORE in wishes)
        assert len(choice.ranks) == 1 or choice.post.wish is Wish.GATHER
        for rank in choice.ranks:
            at[rank] += 1
        rounds += 1
    assert choice.ranks == tuple(range(len(programs)))
    assert at == [len(own) for own in programs]
    assert rounds <= sum(map(len, programs))


@given(st.lists(st.sampled_from([Post(), Post(Wish.LOAD), Post(Wish.GATHER, 0, 1)]), min_size=1, max_size=6))
def test_a_model_is_loaded_when_nobody_needs_another_any_more(posts: list[Post]) -> None:
    choice = choose(posts)
    if any(post.wish is Wish.GATHER for post in posts):
        assert choice.post.wish is Wish.GATHER
    elif any(post.wish is Wish.LOAD for post in posts):
        assert choice == choose(posts)
        assert choice.ranks == tuple(rank for rank, post in enumerate(posts) if post.wish is Wish.LOAD)
    else:
        assert choice.post == Post()


@given(st.integers(0, 40), st.integers(1, 9))
def test_rows_are_dealt_out_whole(rows: int, size: int) -> None:
    """As torch's Shard(0), by which transformers reads them, does it: the first processes have the most."""
    parts = [slice_rows((rows, 3), rank, size) for rank in range(size)]
    assert [row for part in parts for row in range(rows)[part]] == list(range(rows))
    counts = [part.stop - part.start for part in parts]
    import torch

    wanted = [len(chunk) for chunk in torch.arange(rows).chunk(size)] if rows else []
    assert counts == wanted + [0] * (size - len(wanted))


def test_who_is_behind_catches_up() -> None:
    ahead, behind = Post(Wish.GATHER, 0, 9), Post(Wish.GATHER, 0, 2)
    assert choose([ahead, behind, behind, Post()]).ranks == (1, 2)
