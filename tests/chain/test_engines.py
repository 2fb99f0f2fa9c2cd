"""Two processes (gloo) with each engine: the losses of one, the keys of the base checkpoint, and really divided."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from making import make_healed
from safetensors.torch import load_file

from interlace_cli.errors import InterlaceError, UsageError
from interlace_cli.healing.engine import CONFIGS, Engine
from interlace_cli.healing.recipe import Recipe
from interlace_cli.healing.state import COMPLETE
from interlace_cli.runtime.launch import choose_failed
from interlace_cli.runtime.processes import LOST

RECIPE = {"lr": 1e-3, "epochs": 1.0, "batch_size": 20, "grad_accum": 1, "max_length": 150, "tune_layers": (3, 5)}
WORDS = "--lr 1e-3 --epochs 1 --batch-size 20 --grad-accum 1 --max-length 150 --tune-layers 3,5 --device cpu"
pytestmark = pytest.mark.engines
needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
deepspeed = [pytest.param(name, marks=needs_deepspeed) for name in ("zero2", "zero3", "zero3-offload")]


@pytest.fixture(scope="module")
def alone(pruned: Path, small_dataset: Path) -> Path:
    """Healed by one process. 169 samples: the last step's nine are uneven, and one of two processes has more rows."""
    out = pruned.parent / "alone"
    make_healed(pruned, small_dataset, out, **RECIPE)
    return out


def call(pruned: Path, dataset: Path, out: Path, *more: str) -> list[str]:
    words = [sys.executable, "-m", "interlace_cli", "finetune", str(pruned), "--dataset", str(dataset)]
    # A workspace of its own: tests beside this one would wait for another's.
    space = ["-w", str(out.parent / "w")]
    return [*words, "--out", str(out), *space, "--json", "--processes", "2", *WORDS.split(), *more]


def check_equal(one: Path, two: Path) -> None:
    a, b = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        torch.testing.assert_close(b[name], tensor, atol=1e-5, rtol=0)


@pytest.mark.parametrize("engine", ["ddp", "fsdp", *deepspeed])
def test_two_processes_do_what_one_does(
    engine: str, pruned: Path, alone: Path, small_dataset: Path, tmp_path: Path
) -> None:
    words = call(pruned, small_dataset, tmp_path / "out", "--engine", engine)
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    healing = json.loads(done.stdout)["healing"]
    wanted = json.loads((alone / "interlace.json").read_text())["healing"]
    assert healing["steps"] == wanted["steps"]
    assert healing["frozen_sha256"] == wanted["frozen_sha256"]
    for name in ("first_loss", "last_loss", "loss_before", "loss_after"):
        assert healing[name] == pytest.approx(wanted[name], rel=1e-5)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in alone.iterdir()}
    check_equal(alone, tmp_path / "out")


def watch(script: str, words: list[str], port: int) -> list[str]:
    """Runs two processes of `interlace WORDS`, each after `script`; what each has said."""
    environment = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", f"{script}\nfrom interlace_cli.cli.app import main\nmain()", *words],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [process.communicate()[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    return said


LOOK_AT_PARTS = """
import sys
import torch
from torch.distributed.tensor import DTensor
from transformers import core_model_loading as reading
from interlace_cli.io import models
original, read = models.load_model, reading.spawn_materialize
taken = []
def count(pool, tensor, device, dtype, sharding_op=None, **rest):
    part = sharding_op.shard_tensor(tensor, device="cpu", dtype=dtype)
    taken.append(part.numel() / (sharding_op._axis0_size * part[0].numel() if len(part) else 1))
    return read(pool, tensor, device, dtype, sharding_op=sharding_op, **rest)
reading.spawn_materialize = count
def look(path, *rest):
    model = original(path, *rest)
    for name, parameter in model.named_parameters():
        assert isinstance(parameter, DTensor), name
        assert parameter.to_local().numel() < parameter.numel(), name
        assert not parameter.is_meta, name
    for name, buffer in model.named_buffers():
        assert not buffer.is_meta, name
    print(f"{len(taken)} parts of at most {max(taken):.2f}", file=sys.stderr)
    return model
models.load_model = look
"""


def test_fsdp_divides_every_tensor_as_it_is_read(pruned: Path, small_dataset: Path, tmp_path: Path) -> None:
    """The teacher's too. accelerate's FSDP on CPUs runs DDP without a word."""
    words = call(pruned, small_dataset, tmp_path / "out", "--engine", "fsdp", "--epochs", "0.1")[3:]
    for said in watch(LOOK_AT_PARTS, [*words, "--objective", "distill"], 29611):
        assert said.count("parts of at most 0.5") == 2, said


LOOK_AT_GRADIENTS = """
import sys
from torch import nn
from interlace_cli.healing import trainer
original = trainer.HealingTrainer._accumulate
def look(self, model, samples):
    assert isinstance(model, nn.parallel.DistributedDataParallel)
    loss = original(self, model, samples)
    gradients = [p.grad for p in self.model.parameters() if p.requires_grad]
    buckets = {g.untyped_storage().data_ptr(): g.untyped_storage().nbytes() for g in gradients}
    held, needed = sum(buckets.values()), sum(g.nbytes for g in gradients)
    assert held < 1.1 * needed, (held, needed)
    assert len(buckets) < len(gradients)
    print("held once", file=sys.stderr)
    return loss
trainer.HealingTrainer._accumulate = look
"""


def test_ddp_holds_gradients_once(pruned: Path, small_dataset: Path, tmp_path: Path) -> None:
    """As views of the buckets that are sent, from the first step on."""
    words = call(pruned, small_dataset, tmp_path / "out", "--engine", "ddp", "--epochs", "0.3")[3:]
    for said in watch(LOOK_AT_GRADIENTS, words, 29616):
        assert said.count("held once") == 3


@pytest.mark.soak
@pytest.mark.parametrize("engine", ["fsdp", *deepspeed[1:2]])
def test_killed_they_go_on(engine: str, pruned: Path, alone: Path, small_dataset: Path, tmp_path: Path) -> None:
    words = call(pruned, small_dataset, tmp_path / "out", "--engine", engine, "--save-every", "3")
    running = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while running.poll() is None and not list(tmp_path.glob(f".out.healing-*/stage-0/*/{COMPLETE}")):
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not (tmp_path / "out").exists()
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "going on from step" in done.stderr
    check_equal(alone, tmp_path / "out")


@pytest.mark.parametrize(
    ("objective", "engine"),
    [
        ("local,distill", "ddp"),
        ("distill+anchor", "fsdp"),
        pytest.param("anchor", "fsdp", marks=pytest.mark.soak),
        pytest.param("distill+anchor", "zero3", marks=needs_deepspeed),
    ],
)
def test_objectives_over_two_processes(
    objective: str, engine: str, pruned: Path, small_dataset: Path, tmp_path: Path
) -> None:
    """Where weights are divided, the teacher's are too."""
    recipe = {**RECIPE, "epochs": 0.3}
    make_healed(pruned, small_dataset, tmp_path / "one", **recipe, objective=objective)
    words = call(pruned, small_dataset, tmp_path / "two", "--objective", objective, "--engine", engine)
    words += ["--epochs", "0.3"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    check_equal(tmp_path / "one", tmp_path / "two")


def test_a_failure_is_one_sentence_and_ends_all(pruned: Path, small_dataset: Path, tmp_path: Path) -> None:
    words = call(pruned, small_dataset, tmp_path / "out", "--objective", "kl")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.count("does not take 'kl'") == 1


def test_what_all_processes_refuse_is_said_once(pruned: Path, small_dataset: Path, tmp_path: Path) -> None:
    """Also where each of them finds it out by itself."""
    words = call(pruned, small_dataset, tmp_path / "out", "--report-to", "paper")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.count("Error: ") == 1
    assert done.stderr.count("paper is not supported") == 1


@pytest.mark.soak
def test_several_processes_are_as_quiet_as_their_command(pruned: Path, small_dataset: Path, tmp_path: Path) -> None:
    words = [word for word in call(pruned, small_dataset, tmp_path / "out", "--epochs", "0.1") if word != "--json"]
    done = subprocess.run([*words, "--quiet"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "out/interlace.json").exists()
    done = subprocess.run(
        [*words, "--optim", "none", "--force", "--debug"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "healing/arguments.py" in done.stderr, "where in the process that failed"


def find_children(process: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True, check=False)
    return [int(pid) for pid in listed.stdout.split()]


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("stop", "code", "sentence"),
    [
        ("Ctrl-C", 130, "interrupted; what is finished is kept"),
        pytest.param(
            "Ctrl-C for the first alone", 130, "interrupted; what is finished is kept", marks=pytest.mark.soak
        ),
        pytest.param("kill the last", 1, "process 2 of 2 was killed (SIGKILL)", marks=pytest.mark.soak),
    ],
)
def test_what_ends_one_ends_all_with_one_sentence_and_it_goes_on(
    stop: str, code: int, sentence: str, pruned: Path, alone: Path, small_dataset: Path, tmp_path: Path
) -> None:
    """That a killed one goes on is what `test_killed_they_go_on` looks at."""
    words = call(pruned, small_dataset, tmp_path / "out", "--save-every", "2")
    running = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while running.poll() is None and not list(tmp_path.glob(f".out.healing-*/stage-0/*/{COMPLETE}")):
        time.sleep(0.01)
    children = find_children(running.pid)
    assert len(children) == 2
    if stop == "Ctrl-C":
        os.killpg(running.pid, signal.SIGINT)
    elif stop == "kill the last":
        os.kill(children[-1], signal.SIGKILL)
    else:
        os.kill(children[0], signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (code, ""), err
    assert sentence in err
    assert err.count("Error: ") == 1, err
    assert not any(map(is_running, children))
    assert {path.name.split("-")[0] for path in tmp_path.iterdir()} == {".out.healing"}, "no lock is left"
    if stop == "Ctrl-C":
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "going on from step" in done.stderr
        check_equal(alone, tmp_path / "out")


def start_both(words: list[str], port: int) -> list[tuple[int, str, str]]:
    """As torchrun starts them: exit code, stdout and stderr of each."""
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "interlace_cli", *words],
            env={**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    said = [process.communicate() for process in running]
    return [(process.returncode, *streams) for process, streams in zip(running, said, strict=True)]


def test_under_a_launcher_the_first_process_speaks(
    pruned: Path, alone: Path, small_dataset: Path, tmp_path: Path
) -> None:
    words = [word for word in call(pruned, small_dataset, tmp_path / "out")[3:] if word not in ("--processes", "2")]
    first, second = start_both(words, 29613)
    assert first[0] == 0, first[2]
    assert json.loads(first[1])["stage"] == "healed"
    assert second == (0, "", "")
    check_equal(alone, tmp_path / "out")


def test_under_a_launcher_one_process_does_what_is_not_spread(chain_model: Path, tmp_path: Path) -> None:
    words = ["prune", str(chain_model), "--drop-layers", "3", "-w", str(tmp_path / "w"), "--json"]
    first, second = start_both(words, 29614)
    assert first[0] == 0, first[2]
    assert json.loads(first[1])["checkpoint"]["dropped"] == [3]
    assert second == (0, "", "")


@pytest.mark.parametrize(
    ("failed", "codes", "chosen"),
    [
        ([1, 0], [1, 1], 0),
        ([1], [None, 1], 1),
        ([1, 0], [LOST, 2], 1),
        ([0, 1], [LOST, 2], 1),
        ([0, 1], [LOST, LOST], 0),
        ([1, 0], [1, -9], 1),
        ([1], [0, 1], 1),
        ([2, 1], [LOST, LOST, -11], 2),
        ([2, 0, 1], [1, LOST, 1], 0),
    ],
)
def test_of_those_that_failed_one_says_why(failed: list[int], codes: list[int | None], chosen: int) -> None:
    assert choose_failed(failed, codes) == chosen


def test_engines_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--engine does not take 'zero4'"):
        Engine("zero4", 2)
    with pytest.raises(UsageError, match="for several processes"):
        Engine("fsdp", 1)
    (tmp_path / "own.json").write_text("{")
    with pytest.raises(UsageError, match="is no JSON"):
        Engine(str(tmp_path / "own.json"), 2)
    (tmp_path / "own.json").write_text("{}")
    with pytest.raises(UsageError, match="no zero_optimization"):
        Engine(str(tmp_path / "own.json"), 2)
    with pytest.raises(UsageError, match=r"--engine fsdp divides each weight .* stage local trains whole layers"):
        Engine("fsdp", 2).check(Recipe(objective="local,ce"))
    Engine("fsdp", 2).check(Recipe(objective="distill+anchor"))
    Engine("ddp", 2).check(Recipe(objective="local,ce"))
    if find_spec("deepspeed") is None:
        with pytest.raises(InterlaceError, match="needs DeepSpeed"):
            Engine("zero2", 2)


def test_the_configs_ship_with_the_package() -> None:
    for name, stage in (("zero2", 2), ("zero3", 3), ("zero3-offload", 3)):
        assert json.loads((CONFIGS / f"{name}.json").read_text())["zero_optimization"]["stage"] == stage


def test_analysis_over_two_processes_is_the_same_to_the_byte(
    chain_model: Path, small_dataset: Path, tmp_path: Path
) -> None:
    for count in ("1", "2"):
        words = [sys.executable, "-m", "interlace_cli", "analyze", str(chain_model), "--dataset", str(small_dataset)]
        words += ["--out", str(tmp_path / count / "analysis.json"), "--processes", count, "--device", "cpu"]
        words += [
            "--importance",
            "loss",
            "--search-ratio",
            "0.3",
            "--loss-samples",
            "20",
            "--batch-size",
            "3",
            "--json",
        ]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["loss"]["samples"] == 20
    for name in ("analysis.json", "analysis.safetensors"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    assert len(list((tmp_path / "2").iterdir())) == 2


def test_slurms_words_are_understood(chain_model: Path, small_dataset: Path, tmp_path: Path) -> None:
    """`srun` starts every process by itself, and does not say where they meet."""
    words = [sys.executable, "-m", "interlace_cli", "analyze", str(chain_model), "--dataset", str(small_dataset)]
    words += ["--out", str(tmp_path / "analysis.json"), "--device", "cpu"]
    shared = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NODELIST": "gpu[1-2]", "SLURM_NNODES": "1"}
    shared["SLURM_JOB_ID"] = str(os.getpid())
    running = [
        subprocess.Popen(
            words,
            env={**os.environ, **shared, "SLURM_PROCID": rank, "SLURM_LOCALID": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    said = [process.communicate() for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    assert "analysis.json" in said[0][0]
    assert not said[1][0], "the first one speaks"


def test_an_estimate_of_two_processes(pruned: Path, small_dataset: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        call(pruned, small_dataset, tmp_path / "out", "--estimate"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 9
    assert not list(tmp_path.iterdir())
