"""A million records, and a hundred thousand samples' scores."""

from __future__ import annotations

import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.long

RECORDS = int(os.environ.get("INTERLACE_RECORDS", "1000000"))


def draw_png(number: int) -> bytes:
    """4 x 4 pixels, of colours that no other number has."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + struct.pack(">I", number) * 3 for _ in range(4))
    header = struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def write_records(path: Path, count: int) -> None:
    turn = pa.struct([("from", pa.string()), ("value", pa.string())])
    schema = pa.schema([("id", pa.string()), ("image", pa.binary()), ("conversations", pa.list_(turn))])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, count, 10_000):
            numbers = range(start, min(start + 10_000, count))
            talks = [
                [{"from": "human", "value": f"<image>\nWhich is number {n}?"}, {"from": "gpt", "value": str(n)}]
                for n in numbers
            ]
            columns = [[str(n) for n in numbers], [draw_png(n) for n in numbers], talks]
            writer.write_table(
                pa.table([pa.array(c, field.type) for c, field in zip(columns, schema, strict=True)], schema=schema)
            )


def prepare(path: Path, space: Path, kill_after: float | None = None) -> tuple[int, int, float]:
    """Exit code, peak bytes seen from outside, seconds."""
    words = [sys.executable, "-m", "interlace_cli", "prepare", str(path), "-w", str(space), "-q"]
    began = time.monotonic()
    running = subprocess.Popen(words)
    if kill_after is not None:
        time.sleep(kill_after)
        running.send_signal(signal.SIGKILL)
    _, status, usage = os.wait4(running.pid, 0)
    return os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024, time.monotonic() - began


@pytest.mark.soak
def test_a_million_records_in_flat_memory_and_gone_on_with(tmp_path: Path) -> None:
    peaks, seconds = {}, {}
    for count in (RECORDS // 10, RECORDS):
        path = tmp_path / f"{count}.parquet"
        write_records(path, count)
        code, peaks[count], seconds[count] = prepare(path, tmp_path / f"w{count}")
        assert code == 0
        manifest = json.loads((tmp_path / f"w{count}/dataset/manifest.json").read_text())
        assert sum(split["samples"] for split in manifest["splits"].values()) == count
    for count in peaks:
        print(f"{count:,} records: {seconds[count]:.0f} s, {peaks[count] / 1e6:,.0f} MB")
    again = tmp_path / "again"
    assert prepare(path, again, kill_after=seconds[RECORDS] / 3)[0] == -signal.SIGKILL
    code, _, rest = prepare(path, again)
    print(f"gone on after a kill at a third: {rest:.0f} s")
    assert code == 0
    assert (again / "dataset/manifest.json").read_bytes() == (
        tmp_path / f"w{RECORDS}/dataset/manifest.json"
    ).read_bytes()
    per_record = (peaks[RECORDS] - peaks[RECORDS // 10]) / (0.9 * RECORDS)
    # What stays in memory is a few words about each record, and no text or picture.
    assert per_record < 1000, f"{per_record:.0f} bytes a record"


@pytest.mark.soak
def test_a_hundred_thousand_samples_are_planned_in_a_second(
    stages: dict[str, tuple[Path, Path, float]], tmp_path: Path
) -> None:
    rng, files = random.Random(0), []
    for p in (1, 2, 3):
        files.append(tmp_path / f"pack{p}.json")
        column = [round(rng.uniform(0.8, 0.99), 6) for _ in range(100_000)]
        files[-1].write_text(json.dumps({str(i): column for i in range(36 - p)}))
    words = [sys.executable, "-m", "interlace_cli", "plan", "--ratio", "0.25", "-q", "-w", str(tmp_path), "--scores"]
    began = time.monotonic()
    subprocess.run([*words, *map(str, files)], check=True)
    planned = time.monotonic()
    analysis = json.loads((stages["analyze"][1] / "analysis.json").read_text())
    analysis["calibration"]["samples"] = 100_000
    del analysis["sha256"]
    (tmp_path / "analysis.json").write_text(json.dumps(analysis))
    (tmp_path / "plan.json").unlink()
    middle = time.monotonic()
    subprocess.run([*words[:-1]], check=True)
    print(f"from their analysis: {time.monotonic() - middle:.2f} s")
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    print(f"from score files of {megabytes:,.0f} MB: {planned - began:.2f} s")
