"""Every method on the demo model and the same five drawings: one table and one grid for docs/methods.md.

    python benchmarks/methods.py OUT [METHOD ...]

Each method trains with the settings it brings for the demo. Scores are those of `sdtune.testing.learning`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from PIL import Image

from sdtune.plugins import load_registry
from sdtune.sampling.grid import draw_grid
from sdtune.testing.learning import PLACES, learn
from sdtune.train.watching.previews import preview_path

SHOWN = len(PLACES) + 1  # the subject's prompts, and one other thing


def measure(registry, name: str, folder: Path) -> dict[str, object]:
    spec = registry.method(name)
    learned = learn(registry, folder, f"method={name}", *spec.demo)
    run = learned.run
    delivered = run.folder.read_facts()["files"][0]["name"]
    return {
        "method": name,
        "before": learned.before,
        "after": learned.after,
        "kept": learned.kept,
        "seconds": learned.seconds,
        "steps": run.timetable.steps,
        "parameters": sum(p.numel() for p in run.parameters().values()),
        "bytes": (run.folder.exports / delivered).stat().st_size,
    }


def pictures(folder: Path, step: int) -> list[Image.Image]:
    return [Image.open(preview_path(folder / "run" / "previews", step, number)) for number in range(SHOWN)]


def table(rows: list[dict]) -> str:
    head = "| method | likeness before | after | other things kept | steps | time | parameters | file |\n"
    head += "|---|--:|--:|--:|--:|--:|--:|--:|\n"
    return head + "".join(
        f"| `{r['method']}` | {r['before']:.2f} | {r['after']:.2f} | {r['kept']:.0%} | {r['steps']} "
        f"| {r['seconds']:.0f} s | {r['parameters']:,} | {r['bytes'] / 1024:,.0f} KiB |\n"
        for r in rows
    )


def main() -> None:
    out, names = Path(sys.argv[1]), sys.argv[2:]
    registry = load_registry()
    names = names or [name for name, spec in registry.methods().items() if spec.demo]
    rows, grid, labels = [], [], []
    for name in names:
        folder, record = out / name, out / name / "result.json"
        if not record.exists():
            record.parent.mkdir(parents=True, exist_ok=True)
            record.write_text(json.dumps(measure(registry, name, folder)))
        rows.append(json.loads(record.read_text()))
        if not grid:
            grid.append(pictures(folder, 0))
            labels.append("before")
        grid.append(pictures(folder, rows[-1]["steps"]))
        labels.append(name)
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    columns = [*(place.removeprefix("on a ") for place in PLACES), "a red star"]
    (out / "methods.md").write_text(table(rows))
    draw_grid(labels, columns, grid).save(out / "methods.png")


if __name__ == "__main__":
    main()
