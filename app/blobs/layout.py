"""Every key of a blob store.

    sha256/ab/abcdef...                     bytes, named by their digest (hex); never changed
    staging/{upload}/{number}               a file of an upload while it arrives, in one piece (local directories)
    staging/{upload}/{number}/{offset}      the same where nothing can be appended to: a piece, by its first byte (S3)
    staging/{upload}/{number}/whole         the same, sent straight to the store
    staging/{run}/...                       what a job writes, under its own names
    probe/...                               written and removed at once, to see whether that works (local directories)

What is staged and abandoned is swept. A release that is served by reference has no keys here: its files stay where they are.
"""

BLOBS = "sha256/"
STAGING = "staging/"
PROBE = "probe/"


def blob(digest: str) -> str:
    """Key of finished bytes."""
    return f"{BLOBS}{digest[:2]}/{digest}"


def staged(upload: str, name: str) -> str:
    """Key of a file that is still arriving."""
    return f"{STAGING}{upload}/{name}"


def staged_part(upload: str, name: str, offset: int) -> str:
    """Key of a piece of such a file; pieces sort by their offsets."""
    return f"{staged(upload, name)}/{offset:020}"


def staged_whole(upload: str, name: str) -> str:
    """Key of such a file that a client sends straight to the store."""
    return f"{staged(upload, name)}/whole"
