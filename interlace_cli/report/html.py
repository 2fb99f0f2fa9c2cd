"""`report.html`: one self-contained page, light or dark, about the artifacts of a workspace.

Sections, in this order: layers (analysis and plan), quality and speed, benchmarks, healing, and how each artifact was
made. To add a section, write a function of `Pieces` and add it to `build_report`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from interlace_cli import __version__
from interlace_cli.domain.analysis import Analysis
from interlace_cli.domain.checkpoint import CheckpointCard
from interlace_cli.domain.dataset import Manifest
from interlace_cli.domain.evaluation import Evaluation
from interlace_cli.domain.plan import Plan
from interlace_cli.domain.record import Artifact
from interlace_cli.report.answers import describe_answers, describe_stops
from interlace_cli.report.caveats import describe_caution, describe_caveats
from interlace_cli.report.curves import build_intervals, build_loss_curve
from interlace_cli.report.drawing import Picture, build_palette, build_svg
from interlace_cli.report.heatmap import build_heatmap, find_plan_rows, find_rows
from interlace_cli.report.strip import build_strip
from interlace_cli.report.tables import build_benchmarks, build_kinds, build_results, build_tiles

STYLE = """
body{font:15px/1.55 system-ui,sans-serif;max-width:66rem;margin:2.5rem auto 5rem;padding:0 1.2rem;color:var(--ink);
background:var(--page)} h1{font-size:1.7rem;margin:0 0 .2rem} h2{font-size:1.15rem;margin:2.6rem 0 .6rem}
p.lead{color:var(--soft);margin:0 0 1.6rem} p.note,figcaption{color:var(--soft);font-size:.87rem;max-width:48rem}
table{border-collapse:collapse;width:100%;margin:.6rem 0;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:.32rem .6rem;border-bottom:1px solid var(--line)} th{font-weight:600;color:var(--soft)}
th:first-child,td:first-child{text-align:left} .wide{overflow-x:auto} figure{margin:.6rem 0;overflow-x:auto}
td.bar{width:9rem} .bar div{height:.42rem;border-radius:2px;margin:2px 0}
.c0{background:var(--keep)} .c1{background:var(--drop)} .c2{background:var(--tune)} .c3{background:var(--anchor)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.8rem;margin:1.2rem 0}
.tiles div{border:1px solid var(--line);border-radius:8px;padding:.7rem .9rem}
.tiles b{display:block;font-size:1.35rem;font-variant-numeric:tabular-nums} .tiles
span{color:var(--soft);font-size:.85rem} details{margin:.4rem 0} summary{cursor:pointer} code{font:12px
ui-monospace,monospace;overflow-wrap:anywhere} dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem
1rem;margin:.5rem 0 .5rem 1rem;font-size:.87rem} .notice{border:1px solid
var(--drop);border-radius:8px;padding:.7rem .9rem;margin:1rem 0}
dt{color:var(--soft)} dd{margin:0;overflow-wrap:anywhere}
"""


HEATMAP_TITLE = "similarity of hidden states before and after one, two and three layers"


@dataclass(frozen=True)
class Pieces:
    """The artifacts to report on. Each may be missing; its section is left out then. `notices` say which two
    of them do not belong together."""

    analysis: Analysis | None = None
    plan: Plan | None = None
    pruned: CheckpointCard | None = None
    healed: CheckpointCard | None = None
    evaluation: Evaluation | None = None
    dataset: Manifest | None = None
    notices: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The name of the dense model, as the page's title."""
        if self.analysis:
            return self.analysis.model.name
        if self.plan and self.plan.model:
            return self.plan.model.name
        results = self.evaluation.results if self.evaluation else []
        return results[0].name if results else "a model"


def build_report(pieces: Pieces) -> str:
    """The page as HTML. Names come from files and folders, so all of them are escaped."""
    makers = (_lead, _notices, _layers, _scores, _benchmarks, _healing, _origins)
    sections = [section for section in (make(pieces) for make in makers) if section]
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>interlace: {escape(pieces.title)}</title><style>{build_palette()}{STYLE}</style></head>\n<body>\n"
        + "\n".join(sections)
        + f"\n<p class='note'>Made by interlace {escape(__version__)}.</p>\n</body></html>\n"
    )


def _lead(pieces: Pieces) -> str:
    plan, evaluation = pieces.plan, pieces.evaluation
    words = []
    if plan:
        words.append(f"{len(plan.drop)} of {plan.num_layers} layers dropped ({plan.strategy})")
    if evaluation and evaluation.results and evaluation.results[-1].retention is not None:
        last = evaluation.results[-1]
        words.append(f"{escape(last.name)} keeps {last.retention:.1f}% of {escape(evaluation.results[0].name)}")
    tiles = build_tiles(evaluation) if evaluation and len(evaluation.results) > 1 else ""
    return f"<h1>{escape(pieces.title)}</h1>\n<p class='lead'>{'; '.join(words)}</p>\n{tiles}"


def _notices(pieces: Pieces) -> str:
    items = "".join(f"<li>{escape(notice)}.</li>" for notice in pieces.notices)
    return f"<div class='notice'><b>Not of one making</b><ul>{items}</ul></div>" if items else ""


def _layers(pieces: Pieces) -> str:
    analysis, plan = pieces.analysis, pieces.plan
    parts = []
    if plan:
        parts.append(_figure(build_strip(plan)))
    rows = find_rows(analysis) if analysis else find_plan_rows(plan) if plan else []
    if rows:
        layers = analysis.model.num_layers if analysis else len(rows[0][1])
        on = f", {analysis.calibration.samples} samples" if analysis else ""
        parts.append(
            _figure(
                build_heatmap(rows, layers, HEATMAP_TITLE),
                f"Mean cosine S between the hidden states that enter and leave a span of layers{on}. The yellower, the"
                " less the span changes them. Colours show &minus;log<sub>10</sub>(1&minus;S), from the lowest to the"
                " highest value. Layers are numbered from 0, as in the dense model.",
            )
        )
    if analysis:
        parts.append(_notice(map(describe_caution, analysis.calibration.cautions)))
    return f"<h2>Layers</h2>\n{''.join(parts)}" if parts else ""


def _scores(pieces: Pieces) -> str:
    evaluation = pieces.evaluation
    if evaluation is None or not evaluation.results:
        return ""
    count, first = sum(evaluation.samples.values()), escape(evaluation.results[0].name)
    has_intervals = any(result.retention is not None for result in evaluation.results)
    versions = ", ".join(f"{name} {value}" for name, value in evaluation.versions.items())
    stops = f", ended by {escape(describe_stops(evaluation))}" if describe_stops(evaluation) else ""
    notes = _notice(describe_caveats(evaluation))
    has_turns = all(result.speed is None or result.speed.in_turns for result in evaluation.results)
    chart = _figure(build_intervals(evaluation.results)) if has_intervals else ""
    return (
        f"<h2>What it cost</h2>\n<p class='note'>{count} samples of {len(evaluation.samples)} kinds;"
        f" {escape(evaluation.device)}, {escape(evaluation.dtype)}; {escape(versions)}.</p>\n{chart}"
        f"<div class='wide'>{build_results(evaluation)}</div>\n{notes}<p class='note'>Score: mean over kinds of the"
        f" score of {describe_answers(evaluation)}{stops}, in percent. Retention: mean over kinds of"
        f" score / score of {first}, with its 95% interval (paired bootstrap). Timings: medians at batch size 1; the"
        f" checkpoints run {'in alternation' if has_turns else 'one after another'}.</p>\n"
        f"<details open><summary>Kind by kind</summary><div class='wide'>{build_kinds(evaluation)}</div></details>"
    )


def _benchmarks(pieces: Pieces) -> str:
    found = pieces.evaluation.benchmarks if pieces.evaluation else None
    if found is None:
        return ""
    version = f" {escape(found.version)}" if found.version else ""
    settings = "; ".join(f"{escape(name)}: {escape(value)}" for name, value in sorted(found.settings.items()))
    return (
        f"<h2>Benchmarks</h2>\n<div class='wide'>{build_benchmarks(found)}</div>\n"
        f"<p class='note'>{escape(found.harness)}{version}. {settings}. In brackets: percent of"
        f" the score of {escape(found.rows[0].name)}; after the average, the mean of these percentages.</p>"
    )


def _healing(pieces: Pieces) -> str:
    healing = pieces.healed.healing if pieces.healed else None
    if healing is None:
        return ""
    curve = _figure(build_loss_curve(healing)) if healing.curve else ""
    recipe = ", ".join(f"{escape(name)} {escape(str(value))}" for name, value in sorted(healing.recipe.items()))
    return (
        f"<h2>Healing</h2>\n<p>Trained on {healing.samples:,} conversations of {escape(healing.dataset)}"
        f" for {healing.steps:,} steps;"
        f" {healing.trained_parameters:,} parameters trained; loss {healing.losses[0]:.3f} &rarr;"
        f" {healing.losses[1]:.3f}.</p>\n{curve}"
        f"{_notice(map(describe_caution, healing.cautions))}<p class='note'>{recipe}</p>"
    )


def _origins(pieces: Pieces) -> str:
    named: list[tuple[str, Artifact | None]] = [
        ("dataset", pieces.dataset),
        ("analysis", pieces.analysis),
        ("plan", pieces.plan),
        ("pruned", pieces.pruned),
        ("healed", pieces.healed),
        ("evaluation", pieces.evaluation),
    ]
    parts = [_origin(name, artifact) for name, artifact in named if artifact is not None]
    return f"<h2>Where it is from</h2>\n{''.join(parts)}"


def _origin(name: str, artifact: Artifact) -> str:
    origin = artifact.created_by
    entries = {f"made from {key}": value for key, value in sorted(artifact.inputs.items())}
    for field in ("location", "revision"):
        value = getattr(artifact, field, None)
        if value:
            entries[field] = str(value)
    entries |= {key: str(value) for key, value in sorted(origin.settings.items()) if value not in (None, [], {})}
    rows = "".join(f"<dt>{escape(key)}</dt><dd><code>{escape(value)}</code></dd>" for key, value in entries.items())
    who = f"interlace {escape(origin.interlace)}, <code>{escape(origin.command)}</code>"
    return f"<details><summary>{name}: {who}</summary><dl>{rows}</dl></details>"


def _notice(sentences: Iterable[str]) -> str:
    return "".join(f"<p class='notice'>{escape(sentence)}</p>" for sentence in sentences)


def _figure(picture: Picture, caption: str = "") -> str:
    words = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f"<figure>{build_svg(picture, is_alone=False)}{words}</figure>"
