"""Web servers that do not give an image: their shard's failure, or the image's own where that was asked for."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from vlq.query.image.pictures import BadImage, Unfetched
from vlq.workers.images import DeadLink, fetching
from vlq.workers.job import given_up
from vlq.workers.queue import Failure

from .web import NOWHERE, Server, picture


def test_dead_links(server: Server) -> None:
    """What refuses is asked once, what may be another's fault four times."""
    fetched = fetching(skip_dead_links=True)
    assert fetched(f"{server.url}/a.png") == picture("a.png")
    assert fetched(f"{server.url}/later") == picture("later")
    for status, tries in ((401, 1), (403, 1), (451, 1), (408, 4), (429, 4), (500, 4), (503, 4)):
        with pytest.raises(DeadLink, match=f"^not fetched: {status}") as caught:
            fetched(f"{server.url}/{status}")
        assert server.asked[str(status)] == tries
        assert caught.value.was_answered is (tries == 1)
    with pytest.raises(BadImage, match=r"^file not found$"):
        fetched(f"{server.url}/404")
    with pytest.raises(DeadLink, match=r"^not fetched: Cannot connect") as caught:
        fetched(f"{NOWHERE}/a.png")
    assert not caught.value.was_answered


def test_only_links_are_skipped(tmp_path: Path) -> None:
    for uri in (f"file://{tmp_path}/away/a.png", f"parquet://image/0::file://{tmp_path}/away.parquet"):
        with pytest.raises(OSError, match="away"):
            fetching(skip_dead_links=True)(uri)


def test_whose_links_are_not_skipped_is_told_how_they_are(server: Server) -> None:
    with pytest.raises(Unfetched, match=r"/403 cannot be read: 403 Forbidden") as caught:
        fetching(skip_dead_links=False)(f"{server.url}/403")
    error = pickle.loads(pickle.dumps(caught.value))  # as it comes from a worker
    assert "--skip-dead-links" in (given_up([Failure(0, error, 4)]).hint or "")


def test_a_stream_without_an_end(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlq.query.image.pictures.MAX_BYTES", 2**20)
    with pytest.raises(BadImage, match="too large"):
        fetching(skip_dead_links=False)(f"{server.url}/forever")
