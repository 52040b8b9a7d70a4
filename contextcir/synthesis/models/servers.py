"""Several servers for the requests of one model: which one is sent to, and which is left alone for a while."""

import logging
import time
from collections.abc import Sequence
from typing import Any

from contextcir.errors import InputError
from contextcir.synthesis.models.answers import Dialect
from contextcir.synthesis.models.client import check_url, read_key
from contextcir.synthesis.models.pacing import Retries

log = logging.getLogger(__name__)
NAMED = 2  # servers in a message


class Server:
    """One server, and how it is doing.

    Args:
        url: its address.
        variable: name of the environment variable with its key; None where it needs none.
        dialect: of its first request; later ones use what it takes.
    """

    def __init__(self, url: str, variable: str | None, dialect: Dialect) -> None:
        self.url = check_url(url)
        self.variable = variable
        self.dialect = dialect
        self.in_flight = 0
        self.lost = 0  # requests in a row that it did not answer
        self.rests_until = 0.0
        self.client: Any = None  # while requests are sent
        self.key = ""

    @property
    def rests(self) -> float:
        """Seconds for which other servers come first."""
        return max(0.0, self.rests_until - time.monotonic())

    def rest(self, seconds: float) -> None:
        """Let other servers come first for so many seconds."""
        self.rests_until = max(self.rests_until, time.monotonic() + seconds)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "client": None, "key": ""}


class Servers:
    """The servers among which requests are shared: the least busy one is next, one that failed comes last for a while.

    A server that does not answer is left alone for a time that doubles; then one request tries it.

    Args:
        servers: at least one.
        retries: has the first and the longest of these times.
    """

    def __init__(self, servers: Sequence[Server], retries: Retries) -> None:
        self.servers = list(servers)
        self.retries = retries
        self._turn = 0

    def take(self) -> Server:
        """Return the server for the next request, and count it as in flight."""
        self._turn += 1
        count = len(self.servers)
        order = [self.servers[(self._turn + place) % count] for place in range(count)]
        chosen = min(order, key=lambda server: (server.rests, server.in_flight))
        if chosen.lost:  # only one request tries whether it is back
            chosen.rest(self._pause(chosen))
        chosen.in_flight += 1
        return chosen

    def give_back(self, server: Server) -> None:
        """Count a request as no longer in flight."""
        server.in_flight -= 1

    def failed(self, server: Server, reason: str) -> None:
        """Note that a server did not answer."""
        server.lost += 1
        server.rest(self._pause(server))
        if server.lost == 1 and len(self.servers) > 1:
            log.warning("%s does not answer (%s): its requests go to the others", server.url, reason)

    def answered(self, server: Server) -> None:
        """Note that a server answers."""
        if server.lost:
            server.lost, server.rests_until = 0, 0.0

    @property
    def awake(self) -> bool:
        """Whether a server takes requests now."""
        return any(not server.rests for server in self.servers)

    @property
    def sleep(self) -> float:
        """Seconds until a server takes requests."""
        return min(server.rests for server in self.servers)

    def __str__(self) -> str:
        named = ", ".join(server.url for server in self.servers[:NAMED])
        more = len(self.servers) - NAMED
        return named + (f" and {more} more" if more > 0 else "")

    def _pause(self, server: Server) -> float:
        return min(self.retries.longest, self.retries.first * 2.0 ** min(max(server.lost - 1, 0), 60))


def make_servers(
    url: str | Sequence[str], variable: str | Sequence[str | None] | None, dialect: Dialect
) -> list[Server]:
    """Return the servers of addresses, with one variable for all keys or a list of one for each.

    Raises:
        InputError: if there is no address, one stands twice or is none, or the variables are not as many.
    """
    urls = [url] if isinstance(url, str) else list(url)
    variables = [variable] * len(urls) if variable is None or isinstance(variable, str) else list(variable)
    if not urls:
        raise InputError("expected an address, or a list of addresses, got none", setting="model.url")
    if len(variables) != len(urls):
        raise InputError(
            f"expected one name for all servers, or one for each of the {len(urls)}, got {len(variables)}",
            setting="model.key_variable",
        )
    servers = [Server(each, name, dialect) for each, name in zip(urls, variables, strict=True)]
    if len({server.url for server in servers}) < len(servers):
        raise InputError("an address stands twice", setting="model.url")
    return servers


def keys(servers: Sequence[Server]) -> list[str]:
    """Return the key of each server; raises InputError if one is not in the environment."""
    return [read_key(server.variable) for server in servers]
