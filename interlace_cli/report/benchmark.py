"""The results of `interlace bench` as Markdown."""

from __future__ import annotations

from interlace_cli.domain.benchmark import Benchmark, Case

COLUMNS = ("", "against", "ours", "baseline", "ratio", "goal", "of the floor", "memory")


def build_markdown(found: Benchmark) -> str:
    """A Markdown section: the machine, a table with one row per case, and the notes of each case."""
    versions = ", ".join(f"{name} {value}" for name, value in found.versions.items())
    shape = f", {found.shape}" if found.shape else ""
    lines = [f"## {found.part}{shape}: {found.date}", "", f"{found.machine}; {versions}.", ""]
    lines += [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    lines += [f"| {' | '.join(build_cells(case))} |" for case in found.cases]
    notes = [f"- {case.name}: {'; '.join(describe_notes(case))}" for case in found.cases if describe_notes(case)]
    return "\n".join([*lines, "", *notes, ""])


def build_cells(case: Case) -> list[str]:
    """One table row of a case, in the order of `COLUMNS`."""
    return [
        case.name,
        case.against,
        describe_seconds(case.ours.median, case.ours.low, case.ours.high),
        describe_seconds(case.baseline.median, case.baseline.low, case.baseline.high),
        f"{case.ratio:.2f} × {'as fast' if case.is_speedup else 'as long'} ({case.ratio_range[0]:.2f} to"
        f" {case.ratio_range[1]:.2f})",
        _describe_goal(case),
        "" if case.closeness is None else f"{case.closeness:.0%}",
        _describe_memory(case),
    ]


def describe_notes(case: Case) -> list[str]:
    """The notes of a case; last, its floor in milliseconds, if it has one."""
    floor = [] if case.floor_seconds is None else [f"floor: {case.floor}, {1000 * case.floor_seconds:.1f} ms"]
    return [*case.notes, *floor]


def describe_seconds(median: float, low: float, high: float) -> str:
    """Seconds as text, in ms below one second: `12.3 ms (12.0 to 13.1)`."""
    scale, unit = (1000, "ms") if median < 1 else (1, "s")
    return f"{scale * median:.1f} {unit} ({scale * low:.1f} to {scale * high:.1f})"


def _describe_goal(case: Case) -> str:
    if case.goal is None:
        return ""
    word = "at least" if case.is_speedup else "at most"
    return f"{word} {case.goal:.2f}: {'reached' if case.is_reached else 'missed'}"


def _describe_memory(case: Case) -> str:
    if case.ours_peak_bytes is None or case.baseline_peak_bytes is None:
        return ""
    return f"{case.ours_peak_bytes / 1e6:,.0f} MB, {case.baseline_peak_bytes / 1e6:,.0f} MB"
