"""What tests of pulls and imports share."""

from typing import Any

from tests.support.fake_hub import FakeHub
from tests.support.registry import Service


def known(service: Service, hub: FakeHub, **more: Any) -> None:
    """Makes a hub of the tests' known as `own`, said anew; for admins alone unless `more` says otherwise."""
    body = {"endpoint": hub.url, "private_hosts": ["127.0.0.1"], "http_hosts": ["127.0.0.1"], **more}
    assert service.admin("PUT", "/upstreams/own", json=body).status_code in (200, 201)
