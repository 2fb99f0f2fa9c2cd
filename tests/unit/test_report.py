"""The page and the pictures: whole, escaped, and seen in a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from interlace_cli.core.report import write_report
from interlace_cli.domain.checkpoint import CheckpointCard, Healing
from interlace_cli.domain.evaluation import BenchmarkRow, Benchmarks, Evaluation, Result, Speed
from interlace_cli.domain.layers import Role
from interlace_cli.domain.plan import Plan
from interlace_cli.domain.record import Origin
from interlace_cli.errors import MissingInputError, UsageError
from interlace_cli.families.model_files import open_model
from interlace_cli.io.artifacts import save_artifact
from interlace_cli.io.workspace import Workspace
from interlace_cli.options import AnalyzeOptions, PlanOptions
from interlace_cli.options.option import Options
from interlace_cli.report.card import build_card
from interlace_cli.report.curves import build_intervals, build_loss_curve
from interlace_cli.report.drawing import DARK, LIGHT, Picture, build_png, build_svg, contrast, heat
from interlace_cli.report.heatmap import Rows, build_heatmap, scale_rows
from interlace_cli.report.html import Pieces, build_report
from interlace_cli.report.strip import build_strip

ORIGIN = Origin(interlace="0", command="eval", settings={"seed": 0, "secret": None})
HOSTILE = "</script><script>alert(1)</script>"


def make_result(name: str, score: float, retention: float | None = None) -> Result:
    speed = Speed(
        ttft_ms=10.0, tokens_per_second=100.0, peak_memory_bytes=10**9, repeats=1, prompt_tokens=9, new_tokens=9
    )
    interval = None if retention is None else (retention - 1, retention + 1)
    kinds = {"a": score, HOSTILE: score}
    return Result(
        name=name,
        location="x",
        fingerprint=name,
        layers=4,
        parameters=1000,
        bytes=4000,
        score=score,
        loss=0.1,
        kinds=kinds,
        retention=retention,
        retention_interval=interval,
        speed=speed,
    )


def make_evaluation() -> Evaluation:
    rows = [
        BenchmarkRow(name="dense", fingerprint="dense", scores={"POPE": 80.0}, average=80.0),
        BenchmarkRow(
            name="healed",
            fingerprint="healed",
            scores={"POPE": 60.0},
            average=60.0,
            retention={"POPE": 75.0},
            relative=75.0,
        ),
    ]
    return Evaluation(
        kind=Evaluation.KIND,
        schema_version=2,
        created_by=ORIGIN,
        inputs={"dense": "0" * 64},
        device="a machine",
        dtype="float32",
        samples={"a": 3, HOSTILE: 2},
        metrics={"a": "anls", HOSTILE: "exact_match"},
        categories={"Charts": ["a"]},
        results=[make_result("dense", 0.9), make_result("pruned", 0.5, 55.0), make_result(HOSTILE, 0.8, 90.0)],
        benchmarks=Benchmarks(
            harness="lmms-eval",
            version="0.7.3",
            settings={"judge": "none"},
            categories={"GVQA": ["POPE"], "Inst&Sci": ["MIABench"]},
            rows=rows,
            not_run={"MIABench": "no key"},
        ),
    )


def make_plan() -> Plan:
    roles = [Role.KEEP, Role.TUNE, Role.DROP, Role.ANCHOR]
    return Plan(
        kind=Plan.KIND,
        schema_version=1,
        created_by=ORIGIN,
        inputs={},
        strategy="interlace",
        num_layers=4,
        roles=roles,
        drop=[2],
        tune=[1],
        anchor=[3],
    )


def make_healing() -> Healing:
    return Healing(
        dataset="d",
        recipe={},
        steps=3,
        samples=3,
        first_loss=2.0,
        last_loss=1.0,
        curve=[(1, 2.0), (2, 1.5), (3, 1.0)],
        trained_parameters=1,
        frozen_sha256="",
    )


class Outline(HTMLParser):
    """Tags that are opened, and whether each is closed again."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read_page(text: str) -> Outline:
    outline = Outline()
    outline.feed(text)
    assert outline.open == []
    return outline


def test_what_qualifies_a_figure_stands_beside_it() -> None:
    """On the page and in the model card, as the commands say it."""
    few, left = "the scores rest on 5 samples", {"no place for <answers>": 3}
    evaluation = make_evaluation().model_copy(update={"cautions": [few], "left_out": left})
    unmoved = make_healing().model_copy(update={"cautions": ["healing has changed no weight"]})
    healed = CheckpointCard.model_construct(healing=unmoved)
    origins = {"created_by": ORIGIN, "inputs": {}}
    page = build_report(Pieces(evaluation=evaluation, healed=healed.model_copy(update=origins)))
    assert f"Careful: {few}" in page
    assert "3 samples are left out: no place for &lt;answers&gt;." in page
    assert "Careful: healing has changed no weight" in page
    base = SimpleNamespace(name="x", model_type="y", num_layers=4)
    facts = {"base": base, "dense_index": [0, 1], "dropped": [2, 3], "tune": [1], "strategy": "s", "ratio": 0.5}
    card = build_card(healed.model_copy(update=facts), evaluation, "x", "y", "")
    assert f"**Careful: {few}**" in card
    assert "**Careful: healing has changed no weight**" in card
    assert "**3 samples are left out: no place for <answers>.**" in card


@pytest.fixture
def page(tmp_path: Path) -> Path:
    space = Workspace(tmp_path)
    save_artifact(make_evaluation(), space.evaluation)
    save_artifact(make_plan(), space.plan)
    write_report(space, space.report)
    return space.report


def test_the_page_is_whole_needs_nothing_else_and_runs_no_name_as_code(page: Path) -> None:
    text = page.read_text()
    outline = read_page(text)
    assert not outline.links, "nothing is fetched"
    assert "script" not in outline.seen
    assert "url(" not in text
    for word in (
        "Layers",
        "What it cost",
        "Benchmarks",
        "Where it is from",
        "75.0%",
        "not run",
        "90.0% (89.0 to 91.0)",
    ):
        assert word in text
    assert text.count("<svg") == 2


@pytest.mark.parametrize("part", ["plan", "evaluation", "none"])
def test_a_page_of_what_there_is(part: str, tmp_path: Path) -> None:
    space = Workspace(tmp_path)
    if part == "none":
        with pytest.raises(MissingInputError, match="holds nothing to report on"):
            write_report(space, space.report)
        return
    if part == "plan":
        save_artifact(make_plan(), space.plan)
    else:
        save_artifact(make_evaluation(), space.evaluation)
    write_report(space, space.report)
    read_page(space.report.read_text())


def test_what_is_of_another_model_is_left_out(tmp_path: Path) -> None:
    space = Workspace(tmp_path)
    save_artifact(make_evaluation(), space.evaluation)
    for name, is_shown in (("dense", True), ("another", False)):
        facts = open_model("demo").facts.model_copy(update={"fingerprint": name})
        roles = [Role.KEEP, Role.TUNE, Role.DROP, Role.ANCHOR, *[Role.KEEP] * 12]
        plan = make_plan().model_copy(update={"num_layers": 16, "roles": roles, "model": facts})
        save_artifact(plan, space.plan)
        assert (write_report(space, space.report).plan == plan) is is_shown


BROWSER = next((path for name in ("chromium", "google-chrome", "chrome") if (path := shutil.which(name))), None)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_a_browser_shows_it_by_light_and_by_dark(mode: str, page: Path, tmp_path: Path) -> None:
    """The page's ground and its tiles' colours are there, on a screen and on a narrow one."""
    palette = DARK if mode == "dark" else LIGHT
    for width in (1200, 420):
        shot = tmp_path / f"{width}.png"
        words = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"]
        words += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"]
        words += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},1500", f"--screenshot={shot}"]
        words += ["--blink-settings=preferredColorScheme=0"] * (mode == "dark")
        subprocess.run([*map(str, words), page.as_uri()], check=True, capture_output=True, timeout=60)
        image = Image.open(shot).convert("RGB")
        assert image.size == (width, 1500)
        colors = {color for _, color in image.getcolors(1 << 24)}
        assert image.getpixel((2, 2)) == to_rgb(palette["page"])
        missing = [name for name in ("drop", "tune", "anchor", "keep") if to_rgb(palette[name]) not in colors]
        assert not missing, f"{mode}: {missing} cannot be seen"


def to_rgb(color: str) -> tuple[int, ...]:
    return tuple(int(color[i : i + 2], 16) for i in (1, 3, 5))


def pictures() -> list[Picture]:
    rows: Rows = [("S1", [0.4, 0.9, None, 0.99]), ("S2", [0.5, -0.02, 1.0])]
    healing = make_healing()
    results = make_evaluation().results
    heatmap = build_heatmap(rows, 4, "a <title> & more")
    return [heatmap, build_strip(make_plan()), build_loss_curve(healing), build_intervals(results)]


@pytest.mark.parametrize("number", range(4))
def test_a_picture_is_the_same_as_svg_and_as_png(number: int) -> None:
    picture = pictures()[number]
    root = ElementTree.fromstring(build_svg(picture))
    space = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f"{space}rect")) + len(root.findall(f"{space}text")) + len(
        root.findall(f"{space}polyline")
    ) == len(picture.shapes)
    assert root.get("aria-label") == picture.label
    used = set(re.findall(r"var\(--(\w+)\)", build_svg(picture)))
    assert used <= LIGHT.keys() == DARK.keys()
    image = Image.open(BytesIO(build_png(picture)))
    assert image.size == (round(2 * picture.width), round(2 * picture.height))
    assert len(image.getcolors(1 << 20)) > 3
    assert build_png(picture) == build_png(picture)


@pytest.mark.parametrize("record", [AnalyzeOptions, PlanOptions])
def test_a_figure_of_another_kind_is_refused(record: type[Options], tmp_path: Path) -> None:
    assert record(figure=tmp_path / "x.SVG").figure == tmp_path / "x.SVG"
    with pytest.raises(UsageError, match=r"is neither an \.svg nor a \.png file"):
        record(figure=tmp_path / "x.jpg")


similarity = st.none() | st.floats(-1, 1)


@settings(max_examples=60)
@given(st.lists(st.lists(similarity, min_size=1, max_size=8), min_size=1, max_size=5))
def test_colours_keep_the_order_of_similarities(values: list[list[float | None]]) -> None:
    rows: Rows = [(f"S{i}", row) for i, row in enumerate(values)]
    scaled = [place for row in scale_rows(rows) for place in row]
    flat = [value for row in values for value in row]
    assert [place is None for place in scaled] == [value is None for value in flat]
    both = zip(flat, scaled, strict=True)
    pairs = sorted((value, place) for value, place in both if value is not None and place is not None)
    assert all(0 <= place <= 1 for _, place in pairs)
    assert [place for _, place in pairs] == sorted(place for _, place in pairs)


def test_colours() -> None:
    assert (heat(0), heat(1), heat(-1), heat(2)) == ("#440154", "#fde725", "#440154", "#fde725")
    assert (contrast("#440154"), contrast("#fde725")) == ("#ffffff", "#000000")
