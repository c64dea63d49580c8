"""Draws the README's picture: held-out pass@1 over iterations, self-play beside its control.

    python tests/benchmarks/readme_picture.py

Reads runs/ablation/ablation.json and writes ablation.light.svg and ablation.dark.svg beside it. A line is the mean of
the seeds. Its band goes from the lowest to the highest end of the seeds' 95 % intervals.
"""

import json
import statistics
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "runs" / "ablation"
SELF_PLAY, CONTROL, SCORE = "self-play", "human and rules", "pass@1"
WIDTH, HEIGHT = 760, 300
LEFT, RIGHT, TOP, BOTTOM = 48, 560, 44, 252
"""Edges of the plot in pixels; what is right of it holds the lines' names."""
MOST = 0.45
"""Score at the plot's upper edge."""
FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
THEMES = {
    "light": {"text": "#1f2328", "faint": "#59636e", "grid": "#d8dee4", "self-play": "#0969da", "control": "#9a6700"},
    "dark": {"text": "#f0f6fc", "faint": "#9198a1", "grid": "#30363d", "self-play": "#58a6ff", "control": "#d29922"},
}
"""Colours of GitHub's own pages."""

Curve = dict[int, tuple[float, float, float]]
"""By iteration: mean, lowest end and highest end."""


def curve(ablation: dict, arm: str) -> Curve:
    """Scores of an arm's recorded iterations, over its seeds."""
    scores: dict[int, list[list[float]]] = {}
    for run in ablation["runs"]:
        for record in run["records"] if run["arm"] == arm else ():
            if "heldout" in record:
                scores.setdefault(record["iteration"], []).append(record["heldout"][SCORE])
    return {
        iteration: (
            statistics.mean(value for value, _, _ in seeds),
            min(low for _, low, _ in seeds),
            max(high for _, _, high in seeds),
        )
        for iteration, seeds in sorted(scores.items())
    }


def fraction(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def draw(self_play: Curve, control: tuple[float, float, float], seeds: int, theme: dict[str, str]) -> str:
    """The picture as SVG."""
    last = max(self_play)

    def x(iteration: float) -> float:
        return LEFT + (RIGHT - LEFT) * iteration / last

    def y(score: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * score / MOST

    parts: list[str] = []

    def text(left: float, top: float, content: str, colour: str, anchor: str = "start", more: str = "") -> None:
        parts.append(
            f'<text x="{left:.1f}" y="{top:.1f}" fill="{colour}" text-anchor="{anchor}"{more}>{content}</text>'
        )

    def line(points: list[tuple[float, float]], colour: str, more: str = "") -> None:
        path = " ".join(f"{left:.1f},{top:.1f}" for left, top in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" {more}/>')

    def band(points: list[tuple[float, float]], colour: str) -> None:
        path = " ".join(f"{left:.1f},{top:.1f}" for left, top in points)
        parts.append(f'<polygon points="{path}" fill="{colour}" fill-opacity="0.16"/>')

    for tenth in range(5):
        line([(LEFT, y(tenth / 10)), (RIGHT, y(tenth / 10))], theme["grid"], 'stroke-width="1"')
        text(LEFT - 10, y(tenth / 10) + 4, f".{tenth}" if tenth else "0", theme["faint"], "end")
    for iteration in range(last + 1):
        text(x(iteration), BOTTOM + 20, str(iteration), theme["faint"], "middle")
    text((LEFT + RIGHT) / 2, BOTTOM + 40, "iteration", theme["faint"], "middle")
    text(LEFT, 20, "Held-out pass@1", theme["text"], more=' font-weight="600" font-size="15"')

    mean, low, high = control
    band([(x(0), y(high)), (x(last), y(high)), (x(last), y(low)), (x(0), y(low))], theme["control"])
    line([(x(0), y(mean)), (x(last), y(mean))], theme["control"], 'stroke-width="2" stroke-dasharray="6 4"')
    upper = [(x(iteration), y(top)) for iteration, (_, _, top) in self_play.items()]
    lower = [(x(iteration), y(bottom)) for iteration, (_, bottom, _) in self_play.items()]
    band(upper + lower[::-1], theme["self-play"])
    points = [(x(iteration), y(value)) for iteration, (value, _, _) in self_play.items()]
    line(points, theme["self-play"], 'stroke-width="2.5"')
    parts += [f'<circle cx="{left:.1f}" cy="{top:.1f}" r="4" fill="{theme["self-play"]}"/>' for left, top in points]

    bold = ' font-weight="600"'
    text(RIGHT + 14, points[-1][1] + 1, f"{fraction(self_play[last][0])} self-play", theme["self-play"], more=bold)
    text(RIGHT + 14, points[-1][1] + 19, f"mean of {seeds} seeds", theme["faint"])
    text(RIGHT + 14, y(mean) + 1, f"{fraction(mean)} control", theme["control"], more=bold)
    text(RIGHT + 14, y(mean) + 19, "same steps, no self-play", theme["faint"])
    title = f"Held-out pass@1: self-play {fraction(self_play[last][0])}, control {fraction(mean)}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
        f' role="img" aria-label="{title}" font-family="{FONT}" font-size="13">\n' + "\n".join(parts) + "\n</svg>\n"
    )


def main() -> int:
    ablation = json.loads((FOLDER / "ablation.json").read_text("utf-8"))
    self_play, control = curve(ablation, SELF_PLAY), curve(ablation, CONTROL)
    for name, theme in THEMES.items():
        file = FOLDER / f"ablation.{name}.svg"
        file.write_text(draw(self_play, control[max(control)], len(ablation["seeds"]), theme), "utf-8")
        print(file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
