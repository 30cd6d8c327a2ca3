"""Routers of the Hub protocol. Their routes are not in our own documentation: the protocol is the Hub's."""

from fastapi import APIRouter

from app.hub.errors import HubRoute


def hub_router() -> APIRouter:
    """A router whose refusals say X-Error-Code and X-Error-Message."""
    return APIRouter(route_class=HubRoute, include_in_schema=False)
