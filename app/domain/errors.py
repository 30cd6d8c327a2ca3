"""Refusals of the registry: a stable code, a sentence with named data, and what the user can do.

`kind` says what sort of refusal it is; the surfaces map kinds to their own language (HTTP status, exit code).
"""

from typing import Any, Literal, NamedTuple

from app.text import visible

Kind = Literal[
    "invalid",
    "unauthenticated",
    "forbidden",
    "not_found",
    "conflict",
    "gone",
    "precondition",
    "too_large",
    "busy",
    "full",
    "range",
    "limited",
]


class ErrorCode(NamedTuple):
    """One documented code."""

    kind: Kind
    title: str
    detail: str
    remedy: str


CATALOGUE: dict[str, ErrorCode] = {
    # -- requests
    "request.invalid": ErrorCode("invalid", "Invalid request", "{reason}", "Compare the request with /docs."),
    "request.name": ErrorCode("invalid", "Invalid name", "{name!r} cannot be used as {what}: {reason}.", "Lower-case letters, digits, '.', '_' and '-'; at most {limit} characters."),
    "request.too_large": ErrorCode("too_large", "Too large", "{what} has {size} bytes; the limit is {limit}.", "Send less, or ask the operator to raise the limit."),
    "request.bodies_busy": ErrorCode("busy", "Too many bodies at once", "The request bodies {whose} that are being received fill the {limit} bytes that this process holds of them.", "Retry after a few seconds, and send fewer requests at once; an operator raises PORTLLM_BODY_BYTES."),
    "request.too_complex": ErrorCode("too_large", "Too much in it", "The body holds {parts} lists, objects and members; the limit is {limit}.", "Send less in one request."),
    "request.head": ErrorCode("too_large", "Headers too large", "The request has more than {limit} bytes beside its body.", "Send fewer and shorter headers."),
    "request.cursor": ErrorCode("invalid", "Invalid cursor", "The cursor {cursor!r} did not come from this list.", "Start again without a cursor."),
    "request.idempotency_key": ErrorCode("conflict", "Idempotency key reused", "The Idempotency-Key was used before with another request.", "Use a new key for every new request."),
    "request.changed": ErrorCode("precondition", "Changed meanwhile", "{what} changed since you read it.", "Read it again and repeat the change with the new ETag."),
    "request.under_way": ErrorCode("busy", "Same work under way", "{what} is being worked on by another request.", "Repeat the request after a few seconds; it is answered when the other one has ended."),
    "request.range": ErrorCode("range", "Range not satisfiable", "{path} has {size} bytes; the range {range!r} lies outside.", "Ask for a range inside the file."),
    "request.route": ErrorCode("not_found", "No such route", "There is nothing at {path}.", "See /docs."),
    "request.method": ErrorCode("invalid", "Method not allowed", "{method} is not possible at {path}.", "See /docs."),
    "server.error": ErrorCode("busy", "Internal error", "The service failed to answer; the request id is {request_id}.", "Retry; if it stays, tell the operator the request id."),
    "server.busy": ErrorCode("busy", "Busy", "All {limit} places for {what} are taken.", "Retry after a few seconds."),
    "server.unready": ErrorCode("busy", "Not ready", "Not ready: {reason}.", "Wait, or send requests to another instance; 'data' says how each part answered."),
    "server.storage_full": ErrorCode("full", "Storage full", "There is no space left on a disk of the registry.", "Ask the operator to free space on the data directory and the database of the service and its workers; nothing was stored."),
    # -- the database
    "database.unreachable": ErrorCode("busy", "Database unreachable", "The database does not answer.", "Retry after a few seconds; the operator finds the reason in the log of the process that was asked."),
    "database.busy": ErrorCode("busy", "Database busy", "The database took too long.", "Retry after a few seconds."),
    "database.held": ErrorCode("busy", "Tables in use", "Others held a table that the upgrade must change; that step of it was not made.", "Let their transaction end (on PostgreSQL pg_stat_activity shows it), then run 'portllm db upgrade' again."),
    "database.rows": ErrorCode("conflict", "Rows against the schema", "Rows in the database break rules that the new schema enforces; nothing was changed by that step: {rows}.", "Correct these rows, or restore the database from a backup that does not have them; then run 'portllm db upgrade' again."),
    "database.collision": ErrorCode("busy", "Written at the same time", "Another request wrote the same thing at the same moment.", "Repeat the request: it then finds what the other one wrote."),
    "database.schema": ErrorCode("busy", "Database not upgraded", "The database is at schema {found}; this version needs {needed}.", "Run 'portllm db upgrade' first, then start this process again; services and workers that run may go on meanwhile."),
    # -- limits and quotas
    "rate.limited": ErrorCode("limited", "Too many requests", "All {limit} {what} of this {unit} are used up.", "Come back in {seconds} s, as Retry-After says; ask the operator if the limit is too low."),
    "quota.exceeded": ErrorCode("forbidden", "Quota exceeded", "{owner} has {used} of {limit} {what}; this asks for {asked} more.", "See 'portllm quota show {owner}'; an admin sets another limit with 'portllm quota set {owner}'."),
    "owner.unknown": ErrorCode("not_found", "Unknown owner", "There is no owner {owner!r} that this token may see.", "Name the owner of the token: GET /api/v1/whoami."),
    # -- tokens
    "token.missing": ErrorCode("unauthenticated", "Token required", "The request carries no valid token.", "Send 'Authorization: Bearer TOKEN'; an admin makes tokens with 'portllm token create'."),
    "token.scope": ErrorCode("forbidden", "Not allowed", "This needs a token with scope {scope!r} for {owner!r}.", "Ask an admin for such a token."),
    "token.unknown": ErrorCode("not_found", "Unknown token", "There is no token {token!r}.", "List them with 'portllm token ls'."),
    "token.scopes": ErrorCode("invalid", "Unknown scope", "{scope!r} is not a scope.", "Scopes are read, publish, operate and admin."),
    "token.role": ErrorCode("invalid", "Unknown role", "{role!r} is not a role.", "Roles are reader, publisher, operator and admin."),
    "token.expired": ErrorCode("unauthenticated", "Token expired", "The token expired at {at}.", "An operator or admin makes a new one with 'portllm token create', or renews tokens before they expire with 'portllm token rotate ID'."),
    "token.outlives": ErrorCode("forbidden", "Would outlive its maker", "Your token ends at {at}; what it makes or rotates cannot be valid for longer.", "Ask for a shorter time, or use a token that is valid for longer."),
    "token.over": ErrorCode("conflict", "Token not valid any more", "The token {token!r} was revoked or has expired.", "Make a new one with 'portllm token create'."),
    # -- identity tokens (OpenID Connect)
    "oidc.off": ErrorCode("not_found", "No issuer trusted", "This registry trusts no issuer of identity tokens.", "Ask an admin for a token; the operator names issuers in PORTLLM_OIDC."),
    "oidc.token": ErrorCode("unauthenticated", "Identity token not valid", "The identity token is refused: {reason}.", "Get a fresh one from its issuer, for the audience that GET /api/v1/oidc names."),
    "oidc.issuer": ErrorCode("unauthenticated", "Issuer not trusted", "This registry does not trust the issuer {issuer!r}.", "See those that it trusts with GET /api/v1/oidc."),
    "oidc.no_rule": ErrorCode("forbidden", "Nobody's rule", "No rule of this registry admits {subject!r} of {issuer}.", "Ask the operator for a rule that the claims of the identity token fulfil."),
    "oidc.unavailable": ErrorCode("busy", "Issuer unavailable", "The issuer {issuer} cannot be asked for its keys: {reason}.", "Retry after a few seconds; if it stays, tell the operator."),
    "oidc.lifetime": ErrorCode("invalid", "Lifetime too long", "{seconds} seconds were asked for; such a token is valid for {limit} at most.", "Ask for less, and exchange again when it has expired."),
    "oidc.used": ErrorCode("unauthenticated", "Identity token used already", "The identity token was exchanged before, at {at}.", "Get a fresh one from its issuer. Where a job has one for all its steps, exchange it once and keep the token, or ask the operator for \"single_use\": false."),
    "oidc.rotate": ErrorCode("conflict", "Cannot be rotated", "The token {token!r} was exchanged for an identity token, or made by such a one.", "Exchange a fresh identity token: 'portllm login' or 'portllm token exchange'."),
    # -- requests of ours to addresses that somebody named
    "outgoing.refused": ErrorCode("forbidden", "Address not asked", "{address} is not asked: {reason}.", "Name an address in the public Internet that begins with https://, or ask the operator to allow this one."),
    "outgoing.unreachable": ErrorCode("busy", "Address unreachable", "{address} does not answer as it should: {reason}.", "Check the address, and retry after a few seconds."),
    "outgoing.timeout": ErrorCode("busy", "Address too slow", "{address} did not answer within {seconds} seconds.", "Retry after a few seconds."),
    "outgoing.too_large": ErrorCode("busy", "Answer too large", "The answer of {address} has more than {limit} bytes.", "Check the address."),
    # -- hubs that are pulled from, and secrets at rest
    "upstream.unknown": ErrorCode("not_found", "Unknown upstream", "There is no upstream {upstream!r}.", "List them with 'portllm upstream ls'; an admin adds one with 'portllm upstream add'."),
    "upstream.reference": ErrorCode("invalid", "Not a repository", "{reference!r} names no repository: {reason}.", "Write UPSTREAM:org/name@revision, for example hf:org/name@main."),
    "upstream.endpoint": ErrorCode("invalid", "Not an endpoint", "{endpoint!r} cannot be an upstream: {reason}.", "Give the address that clients would have in HF_ENDPOINT, for example https://huggingface.co."),
    "upstream.closed": ErrorCode("forbidden", "Upstream for admins", "Only admins may pull from {upstream!r}.", "Ask an admin to pull it, or to let publishers do so: 'portllm upstream add {upstream} --publishers'."),
    "upstream.missing": ErrorCode("not_found", "Not in the upstream", "{upstream} shows no {what} {name!r}.", "Check name and revision; what is private or gated needs an upstream with a token that may read it."),
    "upstream.denied": ErrorCode("forbidden", "Upstream refuses", "{upstream} refuses to hand out {name}: {reason}.", "Let the upstream's token be given access there, or set another: 'portllm upstream add {upstream} --token-stdin'."),
    "upstream.unavailable": ErrorCode("busy", "Upstream unavailable", "{upstream} does not give {what} now: {reason}.", "Retry later; what arrived is kept for a day, and the same job goes on with it."),
    "upstream.answer": ErrorCode("conflict", "Not a hub's answer", "The answer of {upstream} for {what} is not a hub's: {reason}.", "Check the upstream's endpoint: 'portllm upstream show {upstream}'."),
    "upstream.changed": ErrorCode("conflict", "File is not what was listed", "{path} is not what {upstream} listed: {reason}.", "Nothing was taken over. Retry once; if it stays, the file is damaged there: tell who runs the upstream."),
    "import.unknown": ErrorCode("not_found", "Unknown import", "There is no import {ident!r}.", "List them with GET /api/v1/imports."),
    "import.base": ErrorCode("conflict", "Unknown base", "{repository} was trained on {base!r}, which no family here is known by.", "Let an admin say which family that is: 'portllm family alias add FAMILY {base}', then 'portllm jobs retry'."),
    "import.release": ErrorCode("conflict", "Release not told", "{repository} was trained on {base!r}, of family {family!r}; nothing tells which release.", "Import it with --trained-on RELEASE or --trained-on unknown, or let an admin name the release: 'portllm family alias add'."),
    "import.taken": ErrorCode("conflict", "Name taken", "{patch} is there already, and did not come from {repository}.", "Import it under another name: --as NAME; under the same one if it is meant to be its next version."),
    "import.token": ErrorCode("forbidden", "Token ended", "The token that asked for the import is not valid any more.", "Ask for it again with a valid token; what has arrived is kept for a day."),
    "import.name": ErrorCode("invalid", "One name for several", "A name was chosen for {count} repositories.", "Name one repository with --as NAME, or leave the name out."),
    "import.too_many": ErrorCode("too_large", "Too many at once", "That would be {count} imports; {limit} can be asked for at once.", "List some of them in a file, and import file by file."),
    "secret.key": ErrorCode("conflict", "Key is gone", "{what} was encrypted under the key {key}, which this process does not have.", "Put that key into PORTLLM_SECRET_KEYS_ACCEPTED of the service and its workers, restart them, and run 'portllm db reencrypt'; if it is lost, set the secret again."),
    "secret.damaged": ErrorCode("conflict", "Secret damaged", "{what} cannot be decrypted: it is not what was written for this row.", "Set the secret again, and find out who changed the database."),
    # -- families and releases
    "family.unknown": ErrorCode("not_found", "Unknown family", "There is no family {family!r} that this token may see.", "List them with 'portllm ls families'; an admin grants one with 'portllm family grant'."),
    "family.grant": ErrorCode("not_found", "No such grant", "Family {family!r} is not granted to {owner!r}.", "List its grants with 'portllm family grants'."),
    "base_alias.taken": ErrorCode("conflict", "Name taken", "{name!r} means {meant} already.", "Forget it first: 'portllm family alias rm {family} {name}'."),
    "base_alias.unknown": ErrorCode("not_found", "Unknown alias", "Family {family!r} has no alias {alias!r}.", "List them with 'portllm family alias ls'."),
    "family.taken": ErrorCode("conflict", "Name taken", "There is already a family {family!r}.", "Use it, or choose another name."),
    "release.unknown": ErrorCode("not_found", "Unknown release", "Family {family!r} has no release {release!r}.", "List them with 'portllm ls releases'; register it with 'portllm release add'."),
    "release.taken": ErrorCode("conflict", "Name taken", "{family}/{release} is there already: {source}, {how}, parent {parent}.", "Releases never change; register it in the same words, or choose another release name."),
    "patch.differs": ErrorCode("conflict", "Described otherwise", "{patch} is there already, with another description or another release that it is trained on.", "Leave them out, or change them: 'portllm patch set', or PATCH /api/v1/patches/{patch}."),
    "release.not_ready": ErrorCode("conflict", "Release not ready", "{family}/{release} is {state}.", "Wait until it is ready, or see why with 'portllm ls releases'."),
    "release.yanked": ErrorCode("gone", "Release yanked", "{family}/{release} was yanked: {reason}.", "Choose another release."),
    "release.parent": ErrorCode("conflict", "Unknown parent", "The parent {parent!r} is not a release of {family!r}.", "Register the parent first, or leave it out."),
    "release.damaged": ErrorCode("conflict", "Bytes of the release changed", "{path} of release {release} does not hold the bytes that were registered, although nothing else about it changed.", "Restore the file and run 'portllm fsck --reaccept', or register the release again under another name."),
    "release.root": ErrorCode("forbidden", "Directory not allowed", "{path} does not lie under a directory that releases may be read from.", "Move the release, or let the operator allow its directory: restart the service with --allow-root or PORTLLM_ALLOW_ROOTS; workers take it over, those with roots of their own need it too."),
    "release.directory": ErrorCode("not_found", "No such directory", "There is no directory {path} on the machine that was to read it.", "Name a directory that is there where the service runs, and at the same path on each machine with a worker; or register the release from S3."),
    # -- patches
    "patch.unknown": ErrorCode("not_found", "Unknown patch", "There is no patch {patch!r}.", "List them with 'portllm ls patches'; publish with 'portllm patch push'."),
    "patch.taken": ErrorCode("conflict", "Name taken", "{patch} already belongs to family {family!r}.", "Use that family, or choose another name."),
    "patch.other_family": ErrorCode("conflict", "Patch of another family", "{patch} belongs to family {family!r}, not to {asked!r}.", "Port it to a release of its own family, or publish it there."),
    "version.unknown": ErrorCode("not_found", "Unknown version", "{patch} has no version {version!r}.", "See its versions with 'portllm show'."),
    "version.none": ErrorCode("conflict", "Nothing published", "{patch} has no published version.", "Publish one with 'portllm patch push'."),
    "version.yanked": ErrorCode("gone", "Version yanked", "{patch} version {version} was yanked: {reason}.", "Choose another version."),
    "version.purged": ErrorCode("gone", "Version purged", "{patch} version {version} was purged: {reason}.", "Its bytes are gone for good, and are not taken again for this owner; choose or publish another version."),
    "version.trained_on": ErrorCode("conflict", "Trained on something else", "The same bytes are version {version}, trained on {release!r}.", "A version never changes; correct the trained-on release of this push."),
    "version.files": ErrorCode("invalid", "Invalid file list", "{reason}", "List every file once with its size and sha256."),
    "version.file": ErrorCode("not_found", "No such file", "{patch} version {version} has no file {path!r}.", "See its files with 'portllm show'."),
    "alias.unknown": ErrorCode("not_found", "Unknown alias", "{patch} has no alias {alias!r}.", "See its aliases with 'portllm show'."),
    # -- the Hub protocol
    "hub.repository": ErrorCode("not_found", "No such repository", "There is no repository {repository!r} here that this token may see.", "Repositories are base/FAMILY, OWNER/PATCH and OWNER/PATCH.merged."),
    "hub.revision": ErrorCode("not_found", "No such revision", "{repository} has no revision {revision!r}.", "Revisions are: of base/FAMILY main and releases; of OWNER/PATCH main, aliases, N and N@RELEASE; of OWNER/PATCH.merged main, RELEASE and RELEASE@N."),
    "hub.entry": ErrorCode("not_found", "No such entry", "{repository} has no file or directory {path!r} at {revision!r}.", "List its files: GET /api/models/REPOSITORY/tree/REVISION?recursive=true."),
    # -- uploads
    "upload.unknown": ErrorCode("not_found", "Unknown upload", "There is no open upload {upload!r}.", "Start a new one; open uploads are kept for a day."),
    "upload.file": ErrorCode("not_found", "File not announced", "The upload does not expect a file {path!r}.", "Announce every file when the version is created."),
    "upload.not_direct": ErrorCode("conflict", "Not possible here", "Bytes cannot be sent straight to this registry's store.", "Send them to the registry: PATCH /api/v1/uploads/ID/files/PATH."),
    "upload.offset": ErrorCode("conflict", "Wrong offset", "{path}: {received} bytes are here; the request begins at {offset}.", "Continue at the Upload-Offset that HEAD returns."),
    "upload.too_long": ErrorCode("too_large", "More bytes than announced", "{path}: {size} bytes were announced; more arrived.", "Announce the right size."),
    "upload.incomplete": ErrorCode("conflict", "Upload incomplete", "{path}: {received} of {size} bytes have arrived.", "Send the rest from Upload-Offset on, then publish."),
    "upload.digest": ErrorCode("invalid", "Digest mismatch", "{path}: the bytes that arrived have sha256 {actual}, not {expected}.", "The upload was damaged or is of another file; send it again."),
    "upload.under_way": ErrorCode("busy", "Upload under way", "Another request is sending the file with sha256 {path}.", "Wait until it ends; if its client is gone, retry after a minute."),
    "upload.broken": ErrorCode("invalid", "Upload broke off", "The client went away before all bytes had come.", "Send them again."),
    "upload.signature": ErrorCode("unauthenticated", "Upload not signed for", "The address or token was not signed by this registry for this upload.", "Push again: the client asks for a fresh one."),
    "upload.expired": ErrorCode("unauthenticated", "Upload token expired", "The address or token was valid for a time that is over.", "Push again: the client asks for a fresh one."),
    # -- pushes by the Hub protocol
    "push.merged": ErrorCode("invalid", "Merged models are computed", "{repository} is computed from a release and a patch; nothing is pushed to it.", "Push to the patch, and port it: 'portllm port OWNER/PATCH --to RELEASE'."),
    "push.type": ErrorCode("invalid", "Models only", "This registry has no repositories of type {type!r}.", "Leave the type out, or say 'model'."),
    "push.exists": ErrorCode("conflict", "Repository exists", "There is a repository {repository!r} already.", "Use it (exist_ok=True), or choose another name."),
    "push.revision": ErrorCode("invalid", "Push to main", "{repository} is one line of versions; {revision!r} cannot be pushed to.", "Push to main, then name the version: create_tag, or 'portllm patch alias'."),
    "push.base_revision": ErrorCode("invalid", "Say which release", "A base is pushed as a release, which needs a name; {revision!r} cannot be one.", "Say it: hf upload base/FAMILY DIRECTORY --revision RELEASE."),
    "push.tag_exists": ErrorCode("conflict", "Tag exists", "{repository} has a tag {tag!r} already.", "Choose another name, or move it: 'portllm patch alias'."),
    "push.tags": ErrorCode("invalid", "No tags here", "Only patches have tags; {repository} is none.", "Releases have names already."),
    "push.lines": ErrorCode("invalid", "Invalid commit", "Line {line} of the commit cannot be used: {reason}.", "Send newline-delimited JSON as huggingface_hub does: a header, then file, lfsFile, deletedFile and deletedFolder."),
    "push.released": ErrorCode("conflict", "Release exists", "{repository} has a release {release!r} already; releases never change.", "Push under another name: --revision RELEASE."),
    "push.stale": ErrorCode("precondition", "Changed meanwhile", "{repository} is at commit {head}, not at {parent}.", "Read it again and repeat the push on what it is now."),
    "push.not_sent": ErrorCode("invalid", "Bytes not sent", "{path}: the bytes with sha256 {digest} were not sent to {repository} by you.", "Send them first; naming a digest gives nothing."),
    "push.older": ErrorCode("conflict", "Published before", "These files are version {version} of {repository} already, and a newer one was published since.", "Name that version: create_tag, or 'portllm patch alias'; or yank the newer ones."),
    "push.lost": ErrorCode("conflict", "Bytes not here any more", "{path}: what was pushed is not here any more.", "Push again; what is not finished is kept for a day."),
    "push.kept": ErrorCode("invalid", "Patches stay", "{repository} is a patch; its versions are yanked or purged, not deleted.", "Use 'portllm patch yank' or 'portllm purge'."),
    "push.none": ErrorCode("not_found", "Nothing pushed", "{repository} has no complete push that waits for its base.", "Push adapter_config.json and adapter_model.safetensors first."),
    "push.base_unknown": ErrorCode("conflict", "Base not known", "{repository} is kept as a draft: nothing that this token may see is called {base!r}, which its adapter_config.json names as its base.", "Finish it: 'portllm patch publish {repository} --family FAMILY --trained-on RELEASE'; an admin makes the name known with 'portllm family alias add'."),
    "push.release_unknown": ErrorCode("conflict", "Trained on which release?", "{repository} is kept as a draft: which release of family {family!r} it was trained on is not said.", "Finish it: 'portllm patch publish {repository} --trained-on RELEASE'; or say revision in adapter_config.json, or make it the patch's own: 'portllm patch create {repository} --family {family} --trained-on RELEASE'."),
    "push.busy": ErrorCode("busy", "Busy", "All places for putting files together are taken.", "Retry after a few seconds."),
    # -- object store
    "storage.unavailable": ErrorCode("busy", "Object store unavailable", "The object store does not answer as it should: {reason}.", "Retry after a few seconds; if it stays, tell the operator."),
    "storage.refused": ErrorCode("busy", "Object store refuses", "The object store refused: {reason}.", "The operator should check bucket and permissions of the object store, and the credentials of the service and of each worker."),
    "storage.hidden": ErrorCode("busy", "Old versions not shown", "The bucket {bucket!r} may keep old versions of what was deleted, and does not show them ({reason}).", "The operator should allow s3:ListBucketVersions and s3:GetBucketVersioning, or set PORTLLM_S3_KEEPS_NO_VERSIONS=true for the service and its workers where the store has none."),
    # -- places in S3, materialisations
    "place.invalid": ErrorCode("invalid", "Invalid place", "{place!r} is not an address in S3.", "Use s3://bucket/prefix with letters, digits and . _ = @ + - in its names."),
    "place.not_allowed": ErrorCode("forbidden", "Place not allowed", "{place} does not lie below a place in S3 that may be used here.", "Ask the operator to add it to PORTLLM_ALLOW_S3 of the service and to restart it; workers take it over, those with a PORTLLM_ALLOW_S3 of their own need it too."),
    "materialisation.unknown": ErrorCode("not_found", "Unknown materialisation", "There is no materialisation {materialisation!r}.", "List those of a port with GET /api/v1/ports/PORT/materialisations."),
    # -- ports, states, jobs
    "port.unknown": ErrorCode("not_found", "Unknown port", "There is no port {port!r}.", "List them with 'portllm ls ports'."),
    "port.none": ErrorCode("not_found", "Not ported", "{patch} version {version} has no ready port on {release!r}.", "Make one with 'portllm port {patch} --to {release}'."),
    "port.not_ready": ErrorCode("conflict", "Port not readable", "The port is {state}; only ready ports have a merged model.", "See its findings with 'portllm port'."),
    "port.force": ErrorCode("invalid", "Reason missing", "A forced port needs a reason.", "Say why the finding does not hold, for example --force 'weights were permuted'."),
    "state.move": ErrorCode("conflict", "Not possible now", "A {noun} that is {state} cannot become {target}.", "Look at its present state."),
    "job.unknown": ErrorCode("not_found", "Unknown job", "There is no job {job!r}.", "List them with 'portllm jobs ls'."),
    "job.crashed": ErrorCode("conflict", "Job crashed", "The job's process ended without a result ({reason}).", "Retry; if it happens again, the machine of the worker that ran it may lack memory or disk."),
    "job.cancelled": ErrorCode("conflict", "Job cancelled", "The job was cancelled.", "Start it again if that was a mistake."),
    "job.lost": ErrorCode("conflict", "Job lost", "The job {job!r} is no longer this worker's.", "Nothing to do: another worker finishes it."),
    "worker.signature": ErrorCode("forbidden", "Signature not valid", "The address was not signed for this file and this worker.", "Ask the registry for the file; it answers with a fresh address."),
    "worker.expired": ErrorCode("forbidden", "Address expired", "The address was valid for a short time, which is over.", "Ask the registry for the file; it answers with a fresh address."),
    "worker.embedded": ErrorCode("invalid", "No worker on SQLite", "On SQLite the service runs the jobs itself; a worker needs PostgreSQL.", "Set PORTLLM_DATABASE_URL to a postgresql+psycopg:// address, here and for the service."),
    "worker.key": ErrorCode("invalid", "No shared key", "A worker that listens must know the key with which the service signs addresses.", "Set PORTLLM_SECRET_KEY to the same value for the service and all workers."),
    "worker.roots": ErrorCode("invalid", "Allowed places differ", "{setting} of this worker ({own}) leaves out what the service allows ({service}): {missing}.", "Start the worker without --allow-root and {setting}, so that it takes the service's places, or add what is missing; the service needs no restart."),
    "worker.unready": ErrorCode("busy", "Worker not ready", "The worker {reason}.", "Retry after a few seconds."),
    "blob.missing": ErrorCode("gone", "Bytes missing", "The bytes {digest} are not in the store.", "Restore the store from a backup."),
    "key.differs": ErrorCode("conflict", "Different keys", "Another key than this process's is used by {others}.", "Set PORTLLM_SECRET_KEY to the same value for all services and workers; to replace it, let all accept the new one first (PORTLLM_SECRET_KEYS_ACCEPTED)."),
    "data.locked": ErrorCode("busy", "Data directory in use", "{path} is in use by another service.", "Stop the other one, or use another --data directory."),
    "data.permissions": ErrorCode("invalid", "Data directory open to others", "{path} must be for the user alone who runs this: {reason}.", "Give it to that user with chown, or name a --data directory of its own, for example a new one below it."),
    "data.secret_key": ErrorCode("invalid", "Key too short", "The key in {path} has {size} bytes; {limit} are needed.", "Restore the file from a backup, or write a new key into it with 'openssl rand -hex 32' and set the tokens of upstreams again."),
}  # fmt: skip


class DomainError(Exception):
    """A refusal by the registry.

    Attributes:
        code: stable machine name, a key of `CATALOGUE`.
        kind: what sort of refusal it is.
        data: the named values that fill the sentence.
    """

    def __init__(self, code: str, **data: Any) -> None:
        entry = CATALOGUE[code]
        data = {k: visible(v) if isinstance(v, str) else v for k, v in data.items()}
        self.code = code
        self.kind = entry.kind
        self.data = data
        self.title = entry.title
        self.detail = entry.detail.format(**data)
        self.remedy = entry.remedy.format(**data)
        super().__init__(f"{self.detail} {self.remedy}")

    def to_problem(self) -> dict[str, str]:
        """The error as plain values: what a failed job keeps of it."""
        return {"code": self.code, "title": self.title, "detail": self.detail, "remedy": self.remedy}
