"""What a run tells of itself while it goes: counts for the tracker, lines for the log, metrics for Prometheus."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from vlq.workers.progress import READING, Tracker
from vlq.workers.worker import Done

STAGES = ("queued", "busy", "starved", "writing")
"""What a worker's shards spend time with: waiting for the model, in it, waiting for images, and being written."""

log = logging.getLogger(__name__)


class Metrics:
    """`ray.util.metrics`, which each machine's Ray exports to Prometheus."""

    def __init__(self) -> None:
        from ray.util.metrics import Counter, Gauge

        self.images = Counter("vlq_images", "Images read, those with an error included.")
        self.errors = Counter("vlq_image_errors", "Images that could not be read.")
        self.shards = Counter("vlq_shards", "Shards committed.")
        self.bytes = Counter("vlq_bytes", "Bytes of the objects of committed shards.")
        self.failures = Counter("vlq_failures", "Shards that failed on a worker; most are tried again.")
        self.reissued = Counter("vlq_reissued", "Shards given to a second worker, as the first took too long.")
        self.seconds = Counter("vlq_worker_seconds", f"Seconds of shards, by stage: {', '.join(STAGES)}.", ("stage",))
        self.workers = Gauge("vlq_workers", "Workers, by state: ready or starting.", ("state",))
        self.busy = Gauge("vlq_model_busy_share", "Share of the workers' time that models were at work.")


class RunWatch:
    """Follows one run's shards."""

    def __init__(
        self,
        tracker: Tracker,
        cached: int,
        total: int,
        errors: int,
        committed: Callable[[int], None] = lambda shard: None,
        clock: Callable[[], float] = time.monotonic,
        doing: str = READING,
        lacking: str = "readings",
    ) -> None:
        """`committed` is told of each shard that is; `doing` is what is done to images, and `lacking` what one with an
        error has none of."""
        self._doing, self._lacking = doing, lacking
        self._committed = committed
        self._tracker, self._clock = tracker, clock
        self._cached, self._total, self._errors = cached, total, errors
        self.fresh = 0  # images that this run read
        self.repeated = 0  # images read here that another run had committed meanwhile
        self._busy = self._worker_seconds = 0.0
        self._ready, self._since = 0, clock()
        self._metrics = Metrics()
        tracker.images(cached, total, errors, 0, doing)

    @property
    def cached(self) -> int:
        """Images in committed shards, whoever committed them."""
        return self._cached + self.fresh

    @property
    def busy(self) -> float | None:
        """Share of the workers' time that their models were at work, up to the last shard; None before one is done."""
        return min(1.0, self._busy / self._worker_seconds) if self._busy else None

    def workers(self, ready: int, starting: int) -> None:
        self._pass_time()
        self._ready = ready
        self._metrics.workers.set(ready, {"state": "ready"})
        self._metrics.workers.set(starting, {"state": "starting"})

    def _pass_time(self) -> None:
        now = self._clock()
        self._worker_seconds += self._ready * (now - self._since)
        self._since = now

    def done(self, shard: Done) -> None:
        self._pass_time()
        self._busy += shard.busy
        metrics = self._metrics
        for stage in STAGES:
            # The last digits of a difference of clocks may lie below zero.
            metrics.seconds.inc(max(1e-9, getattr(shard, stage)), {"stage": stage})
        if self.busy is not None:
            metrics.busy.set(self.busy)
        if shard.fresh:
            self.fresh += shard.images
            metrics.images.inc(shard.images)
            metrics.shards.inc()
            metrics.bytes.inc(max(1, shard.size))
        else:
            self._cached += shard.images
            self.repeated += shard.images if shard.lost_race else 0
        if shard.errors:
            metrics.errors.inc(len(shard.errors))
        self._errors += len(shard.errors)
        fields = {"shard": shard.shard, "images": shard.images, "bytes": shard.size}
        seconds = {stage: round(getattr(shard, stage), 3) for stage in STAGES}
        what = "committed" if shard.fresh else "read twice" if shard.lost_race else "committed by another run"
        log.info("shard %d %s", shard.shard, what, extra={"fields": fields | {"seconds": seconds}})
        for number, name, reason in shard.errors:
            about = {"shard": shard.shard, "image_id": number, "image": name, "reason": reason}
            log.info("%s has no %s: %s", name, self._lacking, reason, extra={"fields": about})
        self._tracker.images(self.cached, self._total, self._errors, self.fresh, self._doing)
        self._committed(shard.shard)

    def failed(self, shard: int, reason: str, again_in: float | None) -> None:
        self._metrics.failures.inc()
        after = "" if again_in is None else f"; tried again{f' in {again_in:.1f} s or later' if again_in else ''}"
        fields = {"shard": shard, "reason": reason, "again_in": again_in}
        log.warning("Shard %d: %s%s.", shard, reason.rstrip("."), after, extra={"fields": fields})

    def reissued(self, shard: int) -> None:
        self._metrics.reissued.inc()
        text = "Shard %d takes much longer than others: another worker has a go at it, too."
        log.warning(text, shard, extra={"fields": {"shard": shard}})
