"""What launchers say: Slurm's lists of hosts and tasks are read as Slurm writes them, and become torchrun's names."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlace_cli.core.spread import has_to_spread
from interlace_cli.errors import UsageError
from interlace_cli.runtime.launchers import LOWEST_PORT, PORTS, expand_counts, expand_hosts, find_launched
from interlace_cli.runtime.processes import find_processes

WORD = st.from_regex(r"[a-z][a-z-]{0,4}", fullmatch=True)
SPAN = st.tuples(st.integers(0, 120), st.integers(0, 3), st.integers(1, 3))


def write_span(span: tuple[int, int, int]) -> tuple[str, list[str]]:
    first, more, width = span
    numbers = [str(number).zfill(width) for number in range(first, first + more + 1)]
    return numbers[0] if not more else f"{numbers[0]}-{first + more:0{width}}", numbers


@st.composite
def host_lists(draw: st.DrawFn) -> tuple[str, list[str]]:
    """As Slurm writes it, and the hosts one by one."""
    texts, hosts = [], []
    for prefix in draw(st.lists(WORD, min_size=1, max_size=3)):
        text, names = prefix, [prefix]
        for _ in range(draw(st.integers(0, 2))):
            spans = [write_span(span) for span in draw(st.lists(SPAN, min_size=1, max_size=3))]
            middle = draw(st.sampled_from(["", "-n"]))
            text += f"[{','.join(one for one, _ in spans)}]{middle}"
            numbers = [number for _, listed in spans for number in listed]
            names = [f"{name}{number}{middle}" for name in names for number in numbers]
        texts.append(text)
        hosts += names
    return ",".join(texts), hosts


@given(host_lists())
def test_lists_of_hosts_are_read_as_they_are_written(listed: tuple[str, list[str]]) -> None:
    text, hosts = listed
    assert expand_hosts(text) == hosts


@given(st.lists(st.tuples(st.integers(1, 64), st.integers(1, 5)), max_size=4))
def test_counts_of_tasks_are_read_as_they_are_written(runs: list[tuple[int, int]]) -> None:
    text = ",".join(f"{count}(x{hosts})" if hosts > 1 else str(count) for count, hosts in runs)
    assert expand_counts(text) == [count for count, hosts in runs for _ in range(hosts)]


@given(st.text(max_size=20))
def test_no_text_is_a_traceback(text: str) -> None:
    expand_counts(text)
    with suppress(UsageError):
        expand_hosts(text)


SLURM = {
    "SLURM_STEP_ID": "3",
    "SLURM_JOB_ID": "4711",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_NTASKS": "9",
    "SLURM_STEP_NUM_TASKS": "6",
    "SLURM_STEP_TASKS_PER_NODE": "4,2",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_NODELIST": "gpu[01-08]",
}


def test_a_step_of_slurms() -> None:
    """The step's own figures, not the job's."""
    found = find_launched(SLURM)
    assert {name: found[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR")} == {
        "RANK": "5",
        "WORLD_SIZE": "6",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "gpu07",
    }
    assert LOWEST_PORT <= int(found["MASTER_PORT"]) < LOWEST_PORT + PORTS
    other = {find_launched({**SLURM, "SLURM_JOB_ID": str(job)})["MASTER_PORT"] for job in range(20)}
    assert len(other) > 15, "jobs on one host have ports of their own"
    assert find_launched({**SLURM, "SLURM_PROCID": "0"})["MASTER_PORT"] == found["MASTER_PORT"], "one for all ranks"


def test_what_is_set_already_stays() -> None:
    found = find_launched({**SLURM, "MASTER_ADDR": "head", "MASTER_PORT": "1234"})
    assert not {"MASTER_ADDR", "MASTER_PORT"} & set(found)
    assert find_launched({**SLURM, "WORLD_SIZE": "2"}) == {}, "torchrun under srun"
    assert find_launched({name: value for name, value in SLURM.items() if name != "SLURM_STEP_ID"}) == {}, "sbatch"
    assert find_launched({**SLURM, "SLURM_STEP_NUM_TASKS": "1"}) == {}
    assert find_launched({}) == {}


def test_one_host_needs_no_name() -> None:
    one = {**SLURM, "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NODELIST": "gpu7", "SLURM_STEP_TASKS_PER_NODE": "6"}
    assert find_launched({**one, "SLURM_NODEID": "0"})["MASTER_ADDR"] == "127.0.0.1"
    mpi = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
    assert find_launched({**mpi, "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}) | {"MASTER_PORT": ""} == {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "",
    }
    with pytest.raises(UsageError, match="Open MPI has started several processes, and does not say on which host"):
        find_launched({**mpi, "OMPI_COMM_WORLD_LOCAL_SIZE": "1"})
    with pytest.raises(UsageError, match="Slurm has started several processes"):
        find_launched({"SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_NTASKS": "2"})
    with pytest.raises(UsageError, match="list of hosts cannot be read"):
        find_launched({**SLURM, "SLURM_STEP_NODELIST": "gpu[07-"})


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"RANK": "one", "WORLD_SIZE": "2"}, "the variable RANK is no number: 'one'"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 and WORLD_SIZE=2 do not belong together"),
    ],
)
def test_impossible_variables_are_refused(said: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=sentence):
        find_processes()


def test_a_launchers_number_of_processes_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert not has_to_spread(1)
    assert not has_to_spread(2)
    with pytest.raises(UsageError, match="--processes is 4, and the launcher has started 2"):
        has_to_spread(4)
