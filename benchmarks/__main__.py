"""`python -m benchmarks [names...] [--json FILE] [--work FOLDER] [--quick]`: each aim, both sides, their ratio."""

from __future__ import annotations

import argparse
import importlib
import json
import tempfile
from pathlib import Path

from benchmarks.measure import as_json, machine

NAMES = (
    "extraction",
    "plain_script",
    "floor",
    "prefix",
    "precision",
    "throughput",
    "cluster",
    "memory",
    "decoding",
    "synthetic",
    "index",
    "others",
    "query",
    "functions",
    "load",
    "image_page",
    "ablate",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(NAMES)}; all by default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="where models, images and caches are kept")
    parser.add_argument("--images", type=int, default=500, help="of the synthetic cache (default 500)")
    parser.add_argument("--quick", action="store_true", help="smaller and fewer: to see that it runs, not to measure")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in NAMES]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]}; there is {', '.join(NAMES)}")
    work = options.work or Path(tempfile.gettempdir()) / "vlq-benchmarks"
    work.mkdir(parents=True, exist_ok=True)

    about = machine()
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    print(f"{about['cores']} cores ({about['machine']}), load {about['load']} at the start. {versions}")
    results = {}
    for name in options.names or NAMES:
        print(f"\n{name}")
        figures = importlib.import_module(f"benchmarks.{name}").run(work, images=options.images, quick=options.quick)
        for figure in figures:
            print(figure)
        results[name] = as_json(figures)
        if options.json:
            options.json.write_text(json.dumps({"machine": about, "figures": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
