"""Processes of one command agree before they begin, know how others have ended, and need not share a workspace."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from interlace_cli.runtime.launch import find_free_port

pytestmark = pytest.mark.engines
EXCHANGE = """
import json, os, signal, sys, time
from interlace_cli.errors import InterlaceError
from interlace_cli.runtime import exchange
rank, who, how = int(os.environ["RANK"]), int(sys.argv[1]), sys.argv[2]
try:
    assert exchange.gather_values("ranks", {"rank": rank, "long": "x" * 3_000_000})[1]["rank"] == 1
    assert exchange.take_from_main("a set", lambda: {1, 2}) == {1, 2}
    if rank == who:
        if how == "fail":
            raise InterlaceError("no dataset.", "Make it.")
        os.kill(os.getpid(), getattr(signal, how))
    exchange.gather_values("more", rank)
except InterlaceError as error:
    exchange.leave_word(error)
    print(type(error).__name__, error)
"""


def start(words: Sequence[str], rank: int, size: int, port: int, **more: str) -> subprocess.Popen[str]:
    place = {"RANK": rank, "LOCAL_RANK": more.pop("LOCAL_RANK", rank), "WORLD_SIZE": size, "MASTER_PORT": port}
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in place.items()}}
    environment |= {"TORCH_CPP_LOG_LEVEL": "ERROR", **more}
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(running: Sequence[subprocess.Popen[str]], last: int | None = None) -> list[tuple[int, str, str]]:
    """How each has ended and what it has said. Of the one at `last` the status is taken last: older kernels than Linux
    6.15 tell it to nobody afterwards."""
    order = sorted(range(len(running)), key=lambda rank: rank == last)
    said = {rank: running[rank].communicate(timeout=300) for rank in order}
    return [(process.returncode, *said[rank]) for rank, process in enumerate(running)]


@pytest.mark.parametrize(
    ("who", "how", "sentence"),
    [
        (0, "SIGKILL", "process 1 of 3 (rank 0 on {host}) was killed (SIGKILL), and the others ended."),
        (1, "SIGSEGV", "process 2 of 3 (rank 1 on {host}) was killed (SIGSEGV), and the others ended."),
        (2, "fail", "process 3 of 3 (rank 2 on {host}) failed: no dataset. Make it."),
    ],
)
def test_who_is_gone_is_named(who: int, how: str, sentence: str) -> None:
    """Also where the first process is: its sentinel outlives it. Values may be longer than torch takes at once."""
    port = find_free_port()
    running = [start([sys.executable, "-c", EXCHANGE, str(who), how], rank, 3, port) for rank in range(3)]
    said = finish(running, last=who)
    for rank in {0, 1, 2} - {who}:
        code, out, err = said[rank]
        assert (code, err) == (0, "")
        assert out.startswith(f"LostPeerError {sentence.format(host=os.uname().nodename)}")


def finetune(pruned: Path, dataset: Path, out: Path, *more: str) -> list[str]:
    words = [sys.executable, "-m", "interlace_cli", "finetune", str(pruned), "--dataset", str(dataset), "--json"]
    words += [
        "--out",
        str(out),
        "-w",
        str(out.parent),
        "--epochs",
        "0.1",
        "--batch-size",
        "20",
        "--grad-accum",
        "1",
        "--device",
        "cpu",
    ]
    return [*words, "--tune-layers", "3,5", *more]


def test_ranks_that_would_do_different_things_say_so_alike(pruned: Path, small_dataset: Path, tmp_path: Path) -> None:
    port = find_free_port()
    running = [
        start(finetune(pruned, small_dataset, tmp_path / "out", "--lr", lr), rank, 2, port)
        for rank, lr in enumerate(("1e-3", "1e-4"))
    ]
    said = finish(running)
    assert [(code, out) for code, out, _ in said] == [(1, ""), (1, "")]
    host = os.uname().nodename
    for _, _, err in said:
        assert err.startswith("Error: the processes do not agree on --lr: 0.001 on process 1 of 2"), err
        assert f", and 0.0001 on process 2 of 2 (rank 1 on {host}). " in " ".join(err.split())
    assert not list(tmp_path.iterdir())


def test_workspaces_that_are_not_shared_are_found_out(pruned: Path, small_dataset: Path, tmp_path: Path) -> None:
    port, places = find_free_port(), [tmp_path / "a", tmp_path / "b"]
    running = [start(finetune(pruned, small_dataset, places[rank] / "out"), rank, 2, port) for rank in (0, 1)]
    for code, out, err in finish(running):
        said = " ".join(err.split())
        assert (code, out) == (1, "")
        assert said.startswith(
            f"Error: the workspace is not shared: what process 1 of 2 (rank 0 on {os.uname().nodename})"
        )
        assert "--local-workspaces" in said
        assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


@pytest.fixture
def network() -> Iterator[list[list[str]]]:
    """Words that run a command on each of two hosts, which reach each other as 10.77.0.1 and 10.77.0.2."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root")
    names = [f"il{os.getpid()}{letter}" for letter in "ab"]
    try:
        for name in names:
            done = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
            if done.returncode:
                pytest.skip("no network namespaces here")
        first, second = names
        commands = [f"ip link add {first} netns {first} type veth peer name {second} netns {second}"]
        for number, name in enumerate(names, 1):
            commands += [
                f"ip -n {name} addr add 10.77.0.{number}/24 dev {name}",
                f"ip -n {name} link set {name} up",
                f"ip -n {name} link set lo up",
            ]
        for command in commands:
            subprocess.run(command.split(), check=True)
        yield [["ip", "netns", "exec", name] for name in names]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def run_on_hosts(network: list[list[str]], calls: Sequence[list[str]], port: int) -> list[subprocess.Popen[str]]:
    more = {"MASTER_ADDR": "10.77.0.1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    names = [words[-1] for words in network]
    return [
        start([*network[rank], *call], rank, len(calls), port, GLOO_SOCKET_IFNAME=names[rank], **more)
        for rank, call in enumerate(calls)
    ]


def test_two_hosts_with_a_workspace_each(
    network: list[list[str]], pruned: Path, small_dataset: Path, tmp_path: Path
) -> None:
    """The second has neither the dataset nor the checkpoint: both are sent, and the result is that of two processes on
    one host, on the first host alone."""
    first, second = tmp_path / "a", tmp_path / "b"
    shutil.copytree(pruned, first / "pruned")
    shutil.copytree(small_dataset, first / "dataset")
    calls = [
        finetune(place / "pruned", place / "dataset", place / "healed", "--local-workspaces", "--save-every", "1")
        for place in (first, second)
    ]
    said = finish(run_on_hosts(network, calls, 29888))
    assert [code for code, _, _ in said] == [0, 0], said
    assert "is sent to process 2 of 2" in said[0][2]
    assert json.loads(said[0][1])["stage"] == "healed"
    assert {path.name for path in second.iterdir()} == {"pruned", "dataset"}
    for name in ("pruned", "dataset"):
        files = {path.relative_to(first / name) for path in (first / name).rglob("*") if path.is_file()}
        assert files == {path.relative_to(second / name) for path in (second / name).rglob("*") if path.is_file()}
        assert all((first / name / file).read_bytes() == (second / name / file).read_bytes() for file in files)
    together = finetune(first / "pruned", first / "dataset", tmp_path / "together", "--processes", "2")
    subprocess.run(together, check=True, capture_output=True)
    healed = [(place / "model.safetensors").read_bytes() for place in (first / "healed", tmp_path / "together")]
    assert healed[0] == healed[1]


@pytest.mark.soak
def test_torchruns_worker_that_is_killed_is_named(pruned: Path, small_dataset: Path, tmp_path: Path) -> None:
    words = finetune(pruned, small_dataset, tmp_path / "out", "--save-every", "1", "--epochs", "9")[1:]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    running = subprocess.Popen([*launcher, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while running.poll() is None and not list(tmp_path.glob(".out.healing-*/stage-0/*")):
        time.sleep(0.02)
    workers = subprocess.run(["pgrep", "-P", str(running.pid)], capture_output=True, text=True, check=True)
    for pid in workers.stdout.split():
        if b"RANK=1" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            os.kill(int(pid), signal.SIGKILL)
    _, err = running.communicate(timeout=120)
    assert running.returncode != 0
    said = " ".join(err.split())
    assert "Error: process 2 of 2 (rank 1 on" in said, err
    assert "was killed (SIGKILL), and the others ended. The same command goes on." in said
    assert "interrupted" not in said
    assert "Connection closed by peer" not in said


@pytest.mark.soak
def test_two_hosts_of_which_one_is_killed_go_on(
    network: list[list[str]], pruned: Path, small_dataset: Path, tmp_path: Path
) -> None:
    """With a workspace each: the first has the state, and the second gets it from there."""
    first, second = tmp_path / "a", tmp_path / "b"
    for name, folder in (("pruned", pruned), ("dataset", small_dataset)):
        shutil.copytree(folder, first / name)
    calls = [
        finetune(place / "pruned", place / "dataset", place / "healed", "--local-workspaces", "--epochs", "0.6")
        for place in (first, second)
    ]
    calls = [[*call, "--save-every", "1"] for call in calls]
    running = run_on_hosts(network, calls, 29890)
    while running[1].poll() is None and len(list(first.glob(".healed.healing-*/stage-0/*/complete"))) < 2:
        time.sleep(0.02)
    running[1].kill()
    said = finish(running)
    assert "process 2 of 2 (rank 1 on" in said[0][2], said
    assert "was killed (SIGKILL), and the others ended." in " ".join(said[0][2].split())
    assert not list(second.glob(".healed*"))
    said = finish(run_on_hosts(network, calls, 29891))
    assert [code for code, _, _ in said] == [0, 0], said
    assert "going on from step" in said[0][2]
    together = finetune(first / "pruned", first / "dataset", tmp_path / "together", "--processes", "2")
    subprocess.run([*together, "--epochs", "0.6"], check=True, capture_output=True)
    healed = [(place / "model.safetensors").read_bytes() for place in (first / "healed", tmp_path / "together")]
    assert healed[0] == healed[1]
