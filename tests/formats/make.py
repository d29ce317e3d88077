"""Small caches as this VLQ writes them, to be kept for later ones: `python -m tests.formats.make`.

Once for each format, when it is new: a file that is there already is what an older VLQ wrote, and stays.
"""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

from vlq.query.schema import FORMAT, STORED_SITES

from ..synthetic import make_cache, make_run

HERE = Path(__file__).parent
IMAGES = 5
FAILED = [1]


def main() -> None:
    path = HERE / f"{FORMAT}.zip"
    with tempfile.TemporaryDirectory() as name, zipfile.ZipFile(path, "x", zipfile.ZIP_DEFLATED) as file:
        run = make_run(layers=3, grid=(2, 2), k=3, shard_size=2, at=STORED_SITES, answer=2)
        for state, seal in (("finished", True), ("unfinished", False)):
            store, _, _ = make_cache(
                Path(name, state), run, images=IMAGES, failed=FAILED, seal=seal, columns={"label": list("abcab")}
            )
            if not seal:
                store.delete("commits/00000002.json")
        for found in sorted(Path(name).rglob("*")):
            if found.is_file():
                file.write(found, found.relative_to(name))
    print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
