"""What the service does, for those who watch over it: /healthz, and /metrics in the form of Prometheus."""

from __future__ import annotations

import time

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlq.service.served import Served

METHODS = ("GET", "POST", "OPTIONS")
"""Those that are counted by name: who asks may call others as he likes, and each name would be kept."""

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Of one application."""

    def __init__(self, served: Served) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "vlq_requests_total", "Requests answered.", ("method", "route", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "vlq_request_seconds",
            "Until the whole answer was sent.",
            ("route",),
            buckets=SECONDS,
            registry=self._registry,
        )
        waiting = Gauge("vlq_questions", "Questions that are answered or wait for their turn.", registry=self._registry)
        waiting.set_function(lambda: served.waiting)
        kept = Gauge("vlq_kept_bytes", "Memory of answers that are kept to be given again.", registry=self._registry)
        kept.set_function(lambda: served.answers.size)
        resident = Gauge("vlq_resident_bytes", "Memory of rows that questions ask for again.", registry=self._registry)
        resident.set_function(lambda: served.engine.resident.size)
        self.router = APIRouter(tags=["service"])
        self.router.add_api_route("/healthz", healthz, methods=["GET"])
        self.router.add_api_route("/metrics", self.metrics, methods=["GET"], response_class=Response)

    def metrics(self) -> Response:
        """Requests, times, questions that wait, and the process, as Prometheus reads them."""
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """Counts what is answered."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            begun, status = time.perf_counter(), 500

            async def sent(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            try:
                await app(scope, receive, sent)
            finally:
                # The route's pattern: paths themselves are without number.
                route = getattr(scope.get("route"), "path", "none")
                method = scope["method"] if scope["method"] in METHODS else "other"
                self._requests.labels(method, route, status).inc()
                self._seconds.labels(route).observe(time.perf_counter() - begun)

        return counted


async def healthz() -> dict[str, str]:
    """Whether the service answers. Needs no token."""
    return {"status": "ok"}
