"""Who may only read a cache is told so before any work is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vlq.query.cache.heads import planned
from vlq.query.cache.reader import Cache
from vlq.query.cache.tables import read_plan
from vlq.query.cli import main
from vlq.query.errors import StoreError
from vlq.query.schema import LOGIT_LENS
from vlq.query.store import ObstoreStore, open_store
from vlq.workers import job
from vlq.workers.beginning import Beginning
from vlq.workers.lenses.choice import Choice
from vlq.workers.plan import Plan, RunOptions
from vlq.workers.progress import tracker

from ...synthetic import make_cache


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A cache without its second shard that nobody may write to: whoever runs this may be allowed everything."""
    make_cache(tmp_path, seal=False)
    open_store(str(tmp_path)).delete("commits/00000001.json")

    def denied(self: ObstoreStore, key: str, data: bytes) -> bool:
        raise StoreError(f"Cannot write {key}: permission denied.")

    monkeypatch.setattr(ObstoreStore, "create", denied)
    return str(tmp_path)


def fail(*given: Any, **named: Any) -> None:
    raise AssertionError("work was done")


@pytest.mark.parametrize(
    ("command", "work"),
    [
        (["index"], "vlq.workers.indexing.index.rebuild"),
        (["compact"], "vlq.workers.indexing.index.compact"),
        (["repair"], "vlq.workers.upkeep.repair.repair"),
        (["gc"], "vlq.workers.upkeep.gc.leftovers"),
        (["annotate", "captions.csv"], "vlq.query.cache.annotate.read_table"),
    ],
    ids=lambda given: given[0] if isinstance(given, list) else "",
)
def test_upkeep(
    command: list[str], work: str, locked: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(work, fail)
    with pytest.raises(SystemExit) as ended:
        main([*command, "--cache", locked])
    assert ended.value.code == 2
    assert capsys.readouterr() == ("", "vlq: Cannot write run.json: permission denied.\n")


def test_what_would_go_is_told_all_the_same(locked: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["gc", "--dry-run", "--cache", locked])
    assert not ended.value.code
    assert "would go" in capsys.readouterr().out


def test_a_run_that_goes_on(locked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache.open(locked)
    plan = Plan(read_plan(cache.store, planned(cache.store).plan))
    begun = Beginning(RunOptions("images", "model", locked), plan.table, cache.store, cache.run, Choice(LOGIT_LENS))
    monkeypatch.setattr(job, "beginning_of", lambda *given: begun)
    monkeypatch.setattr(job, "settle", lambda *given: (planned(cache.store), plan))
    monkeypatch.setattr(job, "Pool", fail)
    with tracker() as shown, pytest.raises(StoreError, match="permission denied"):
        job.run_job(begun.options, shown)
