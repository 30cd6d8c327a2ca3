"""Reads the metrics of a registry of this process."""

from prometheus_client.parser import text_string_to_metric_families

from app.http.telemetry import MetricsOptions, Telemetry
from tests.support.registry import Service


def figures(service: Service, options: MetricsOptions = MetricsOptions()) -> dict[str, float]:  # noqa: B008  it never changes
    """What a look that remembers nothing shows, by name and labels."""
    return samples(Telemetry(lambda: service.runtime, options))


def samples(telemetry: Telemetry) -> dict[str, float]:
    """What metrics show, by name and labels."""
    text = telemetry.exposition().decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found
