"""Pages as the Hub gives them: the address of the next one in a Link header, at the host that the client used."""

import re
from typing import Annotated

from fastapi import Depends, Query, Request

from app.domain.errors import DomainError
from app.http.access import RegistryDep
from app.http.deps import decode_cursor, encode_cursor

MAX_OFFSET = 10**6
CURSOR = re.compile(r"[!-~ ]{1,1100}|\d{1,7}")


class LinkedPage:
    """At most `limit` things, from a cursor on."""

    def __init__(self, limit: int, cursor: str | None) -> None:
        self.limit, self._cursor = limit, cursor

    @property
    def after(self) -> str | None:
        """What the page before said that this one begins after; looked at by the endpoint, who knows who asks.

        Raises:
            DomainError: request.cursor.
        """
        return decode_cursor(self._cursor, CURSOR) if self._cursor else None

    @property
    def offset(self) -> int:
        """The same where pages are counted."""
        after = self.after or "0"
        if not (after.isascii() and after.isdigit()) or int(after) > MAX_OFFSET:
            raise DomainError("request.cursor", cursor=str(self._cursor)[:100])
        return int(after)

    def link(self, request: Request, after: str | None) -> dict[str, str]:
        """The headers that lead to the page after this one; none, where it is the last."""
        if after is None:
            return {}
        address = request.url.include_query_params(cursor=encode_cursor(after), limit=self.limit)
        return {"Link": f'<{address}>; rel="next"'}


async def get_page(
    registry: RegistryDep,
    limit: Annotated[int, Query(ge=1)] = 500,
    cursor: Annotated[str | None, Query(max_length=1500)] = None,
) -> LinkedPage:
    return LinkedPage(min(limit, registry.tools.limits.page), cursor)


PageDep = Annotated[LinkedPage, Depends(get_page)]
