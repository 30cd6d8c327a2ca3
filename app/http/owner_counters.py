"""Counters of requests and bytes by owner, with a limit on the number of owners that have labels of their own."""

from prometheus_client import CollectorRegistry, Counter

from app.services.operations.metrics import OTHERS

NOBODY = "(none)"


class OwnerCounters:
    """Counts requests and bytes by owner. The first `limit` owners that a process sees get their own label; all others share one.

    Args:
        registry: where the counters are registered.
        limit: how many owners have labels of their own.
    """

    def __init__(self, registry: CollectorRegistry, limit: int) -> None:
        self._limit = limit
        self._requests = Counter("portllm_owner_requests", "Requests by owner.", ["owner"], registry=registry)
        self._sent = Counter("portllm_owner_sent_bytes", "Bytes of answers by owner.", ["owner"], registry=registry)
        self._received = Counter("portllm_owner_received_bytes", "Bytes of bodies by owner.", ["owner"], registry=registry)
        self._known = dict[str, tuple[Counter, Counter, Counter]]()

    def count(self, owner: str | None, sent: int, received: int) -> None:
        """Counts one request; `owner` is None for one without a valid token. Called on the event loop only."""
        name = NOBODY if owner is None else owner
        counters = self._known.get(name)
        if counters is None:
            is_full = name != NOBODY and len(self._known.keys() - {NOBODY, OTHERS}) >= self._limit
            label = OTHERS if is_full else name
            counters = self._known.get(label)
            if counters is None:
                counters = self._requests.labels(label), self._sent.labels(label), self._received.labels(label)
                self._known[label] = counters
        requests, sent_bytes, received_bytes = counters
        requests.inc()
        sent_bytes.inc(sent)
        received_bytes.inc(received)
