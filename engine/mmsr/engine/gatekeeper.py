"""Lets a call in by its bearer token, its scope and its client's rate. Knows no messages."""

from collections.abc import Callable, Mapping

from mmsr.engine.errors import PermissionDenied, Unauthenticated
from mmsr.engine.limits import ClientLimits
from mmsr.engine.tokens import Token, TokenFile, find

AUTHORIZATION = "authorization"
BEARER = "bearer "
# By service; one that is not named here needs `admin`.
SCOPE_OF_SERVICE = {
    "mmsr.v1.Recommender": "recommend",
    "mmsr.v1.Catalogue": "catalogue",
    "inference.GRPCInferenceService": "recommend",
}


def scope_of(method: str) -> str:
    """Return the scope that a method ("package.Service/Method") needs."""
    return SCOPE_OF_SERVICE.get(method.partition("/")[0], "admin")


class TokenGate:
    """The gatekeeper of a server with a file of tokens."""

    def __init__(self, tokens: TokenFile, limits: ClientLimits, clock: Callable[[], float]) -> None:
        self._tokens = tokens
        self._limits = limits
        self._clock = clock

    def admit(self, method: str, metadata: Mapping[str, str | bytes]) -> str:
        """Return the client's name and count one request of it.

        `Unauthenticated`, `PermissionDenied`, `RateExceeded`.
        """
        token = self._known(metadata)
        scope = scope_of(method)
        if scope not in token.scopes:
            raise PermissionDenied(
                f"client {token.client!r} may {', '.join(sorted(token.scopes))}; "
                f"{method} needs the scope {scope}"
            )
        self._limits.take(token.client, token.rate, self._clock())
        return token.client

    def owe(self, client: str, requests: int) -> None:
        """Count more requests of one message."""
        self._limits.owe(client, requests, self._clock())

    def _known(self, metadata: Mapping[str, str | bytes]) -> Token:
        value = metadata.get(AUTHORIZATION)
        if not isinstance(value, str) or value[: len(BEARER)].lower() != BEARER:
            raise Unauthenticated(
                "no bearer token; send the metadata 'authorization: Bearer TOKEN' with a token "
                "of this server"
            )
        token = find(self._tokens.tokens, value[len(BEARER) :].strip())
        if token is None:
            raise Unauthenticated(
                "authorization: the token is not known here; it may have been revoked"
            )
        return token
