"""Show a report: the tables in docs/performance.md, and the bars in docs/performance.svg."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.devices import MB, Profile, Speed
from benchmarks.figures import Row, limit, row

DOCS = Path(__file__).resolve().parents[1] / "docs"
BEGIN = "<!-- Figures of the last run: written by `python -m benchmarks --page`. -->"
END = "<!-- End of the figures. -->"

BAR_LEFT, BAR_WIDTH, BAR_STEP, CASE_GAP = 100, 460, 24, 46


def profile_as_json(profile: Profile) -> dict[str, Any]:
    """A profile as the report keeps it."""
    return asdict(profile)


def profile_of(content: Mapping[str, Any]) -> Profile:
    """A profile from the report."""
    return Profile(content["name"], Speed(**content["card"]), Speed(**content["stick"]))


def write(report: Mapping[str, Any], docs: Path = DOCS) -> None:
    """Put the figures of a report into page and picture."""
    path = docs / "performance.md"
    path.write_text(between(path.read_text(), "\n".join(tables(report))))
    (docs / "performance.svg").write_text(picture(report))


def between(text: str, figures: str) -> str:
    """`text` with `figures` between the two marks. ValueError if a mark is missing."""
    head, tail = text.index(BEGIN) + len(BEGIN), text.index(END)
    return f"{text[:head]}\n\n{figures}\n\n{text[tail:]}"


def by_case(report: Mapping[str, Any]) -> list[tuple[str, float, list[Row]]]:
    """For each case that has results: its title, the bytes in use, its rows."""
    found = []
    for name, title in report["cases"].items():
        results = [one for one in report["results"] if one["case"] == name]
        if results:
            used = float(results[0]["used_bytes"])
            found.append((title, used, [row(one) for one in results]))
    return found


def tables(report: Mapping[str, Any]) -> list[str]:
    """A table for each case, as Markdown, and what was measured where."""
    profile = profile_of(report["profile"])
    card, stick = profile.card, profile.stick
    lines = [
        f"Measured on {report['date']} on {report['machine']}. Devices `{profile.name}`, "
        f"{report['factor']:g} times as fast as described above: card {card.read_bps / MB:.0f} "
        f"MB/s reading and {card.write_bps / MB:.0f} MB/s writing, stick "
        f"{stick.read_bps / MB:.0f} and {stick.write_bps / MB:.0f} MB/s.",
    ]
    for title, used, rows in by_case(report):
        out, back = limit(used, profile)
        lines += [
            "",
            f"**{title}** ({used / MB:.0f} MB in use). The limit is {out + back:.0f} s, of which "
            f"the way back takes {back:.0f} s.",
            "",
            "| | total | copying | to the limit | way back | wiping | no service | to the card "
            "| to the stick | differences |",
            "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
        ]
        for one in rows:
            lines.append(
                f"| {one.flow} | {one.total_s:.0f} s | {one.copying_s:.0f} s "
                f"| {one.copying_s / (out + back):.2f} | {one.back_s:.0f} s | {one.wiping_s:.0f} s "
                f"| {one.down_s:.0f} s | {one.card_bytes / MB:.0f} MB "
                f"| {one.stick_bytes / MB:.0f} MB | {one.differences} |"
            )
    return [*lines, *of_the_pi(report)]


def of_the_pi(report: Mapping[str, Any]) -> list[str]:
    """What only crfs has: boots, the price of `crfs status`, memory, steps."""
    results = [one for one in report["results"] if one["flow"] == "crfs"]
    if not results:
        return []
    lines = [
        "",
        "| crfs | reboots | unlocking adds | `crfs status` | memory of the worker | with cache |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for one in results:
        memory = one["memory"]
        lines.append(
            f"| {report['cases'][one['case']]} | {one['reboots_s']:.0f} s "
            f"| {one['unlock_adds_s']:.1f} s | {one['status_cost']:.1f} | "
            f"{memory['worker_kib'] / 1024:.0f} MiB | {memory['group_kib'] / 1024:.0f} MiB |"
        )
    names = [step["id"] for step in results[0]["steps"]]
    lines += ["", f"| step | {' | '.join(report['cases'][one['case']] for one in results)} |"]
    lines.append("|---|" + "--:|" * len(results))
    for name in names:
        seconds = [
            next((step["seconds"] for step in one["steps"] if step["id"] == name), 0.0)
            for one in results
        ]
        lines.append(f"| `{name}` | {' | '.join(f'{one:.1f} s' for one in seconds)} |")
    return lines


def picture(report: Mapping[str, Any]) -> str:
    """Bars for each case: copying, wiping and the rest of each flow; a line where the limit is."""
    profile = profile_of(report["profile"])
    cases = by_case(report)
    longest = max((one.total_s for _, _, rows in cases for one in rows), default=1.0)
    scale = BAR_WIDTH / longest
    shapes: list[str] = []
    top = 40
    for title, used, rows in cases:
        shapes.append(f'<text class="case" x="10" y="{top}">{escape(title)}</text>')
        height = BAR_STEP * len(rows)
        for number, one in enumerate(rows):
            shapes += bar(one, top + 10 + BAR_STEP * number, scale)
        x = BAR_LEFT + sum(limit(used, profile)) * scale
        shapes.append(f'<path d="M{x:.1f} {top + 6}V{top + 6 + height}"/>')
        top += height + CASE_GAP
    return "\n".join([*head(top), *shapes, "</svg>\n"])


def bar(one: Row, y: int, scale: float) -> list[str]:
    """The bar of one flow, with its name before it and its seconds after it."""
    shapes = [f'<text class="name" x="{BAR_LEFT - 8}" y="{y + 13}">{escape(one.flow)}</text>']
    x = float(BAR_LEFT)
    rest = max(0.0, one.total_s - one.copying_s - one.wiping_s)
    for kind, seconds in (("copy", one.copying_s), ("wipe", one.wiping_s), ("rest", rest)):
        width = seconds * scale
        shapes.append(f'<rect class="{kind}" x="{x:.1f}" y="{y}" width="{width:.1f}" height="18"/>')
        x += width
    shapes.append(f'<text x="{x + 6:.1f}" y="{y + 13}">{one.total_s:.0f} s</text>')
    return shapes


def head(height: int) -> Sequence[str]:
    """The beginning of the picture: size, colours for light and dark, the key."""
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 {height}" width="640" '
        f'height="{height}" role="img" aria-label="Time that each way to an encrypted root takes">',
        "<!-- Written by the benchmark. Do not edit. -->",
        "<style>",
        "  text { font: 13px sans-serif; fill: #1f2328; }",
        "  text.name { text-anchor: end; }",
        "  text.case { font-weight: bold; }",
        "  .copy { fill: #0969da; } .wipe { fill: #bf8700; } .rest { fill: #afb8c1; }",
        "  path { stroke: #cf222e; stroke-width: 2; }",
        "  @media (prefers-color-scheme: dark) { text { fill: #e6edf3; } }",
        "</style>",
        '<rect class="copy" x="100" y="4" width="12" height="12"/><text x="118" y="15">copying'
        '</text><rect class="wipe" x="200" y="4" width="12" height="12"/><text x="218" y="15">'
        'wiping</text><rect class="rest" x="290" y="4" width="12" height="12"/><text x="308" '
        'y="15">all else, reboots</text><path d="M440 3V17"/><text x="448" y="15">the limit</text>',
    ]
