"""What a server counts, as Prometheus reads it."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
ROWS = (1, 2, 4, 8, 16, 32, 64)


class Figures:
    """Counts of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "tagline_requests",
            "Requests answered, by route and status.",
            ("route", "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "tagline_request_seconds",
            "From a request's head to the end of its answer.",
            ("route",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.batch_rows = Histogram(
            "tagline_batch_rows",
            "Rows that an operator answered together.",
            ("operator",),
            buckets=ROWS,
            registry=self.registry,
        )
        self.waiting_rows = Gauge(
            "tagline_waiting_rows",
            "Rows that an operator has and has not answered yet.",
            ("operator",),
            registry=self.registry,
        )
        self.questions = Gauge(
            "tagline_questions",
            "Questions being answered; at most serve.max_queued_requests.",
            registry=self.registry,
        )

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)
