"""Events about ports and materialisations."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from app.domain.events.base import Code, OwnerEvent, Reason, for_handlers

PatchName = Annotated[str, "OWNER/NAME"]
Number = Annotated[int | None, "number of the version"]
PortId = Annotated[str, "id of the port"]
Target = Annotated[str, "where the model is written: s3://BUCKET/PREFIX"]
PORT, MATERIALISATION = "id of the port", "id of the materialisation"


@dataclass(frozen=True)
class PortContents:
    """Facts about a port that can only be read from its files; they are read before it becomes ready.

    Attributes:
        computed: paths of the files of its merged model that are not carried from the release.
        config: adapter_config.json of the patch.
    """

    computed: Collection[str]
    config: Mapping[str, Any]


class _Assessed(OwnerEvent):
    patch: PatchName
    version: Number
    release: Annotated[str, "name of the release"]
    forced: Annotated[bool, "whether a finding was overridden"]


class PortReady(OwnerEvent, kind="port.ready", subject=PORT):
    """A port became ready, when it was created (data: `patch` to `forced`) or by approval (data: `approved`, `reason`)."""

    patch: PatchName | None = None
    version: Number = None
    release: Annotated[str | None, "name of the release"] = None
    forced: Annotated[bool | None, "whether a finding was overridden"] = None
    approved: Annotated[bool | None, "true"] = None
    reason: Reason | None = None
    contents: PortContents | None = for_handlers()  # None: its recipe is not the canonical one


class PortHeld(_Assessed, kind="port.held", subject=PORT):
    """A port was created and is waiting for approval."""


class PortRefused(_Assessed, kind="port.refused", subject=PORT):
    """A port was created and refused because of its findings."""


class PortRetired(OwnerEvent, kind="port.retired", subject=PORT):
    """A port was taken out of use."""


class PortDigested(OwnerEvent, kind="port.digested", subject=PORT):
    """The digests of the computed files of a port became known."""

    files: Annotated[int, "number of files"]


class MaterialisationQueued(OwnerEvent, kind="materialisation.queued", subject=MATERIALISATION):
    """A job was queued that writes a merged model to an object store."""

    port: PortId
    target: Target


class MaterialisationDone(OwnerEvent, kind="materialisation.done", subject=MATERIALISATION):
    """A merged model was written to an object store."""

    port: PortId
    target: Target
    bytes_copied: Annotated[int, "bytes copied within the object store"]
    bytes_moved: Annotated[int, "bytes sent by the worker"]


class _MaterialisationEnded(OwnerEvent):
    port: PortId
    code: Code


class MaterialisationFailed(_MaterialisationEnded, kind="materialisation.failed", subject=MATERIALISATION):
    """A merged model could not be written."""


class MaterialisationCancelled(_MaterialisationEnded, kind="materialisation.cancelled", subject=MATERIALISATION):
    """The writing of a merged model was cancelled."""
