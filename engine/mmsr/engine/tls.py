"""The server's certificates, read anew when their files have changed. No restart, no lost call."""

import logging
import os
import ssl
import threading
from pathlib import Path
from typing import Any

import grpc

from mmsr.engine.errors import ConfigError

log = logging.getLogger(__name__)


class Certificates:
    """Certificate chain and key of a server, and the authority of its clients' certificates.

    gRPC asks before every handshake, from threads of its own. Files that do not fit each other
    (one of them is still to be replaced) leave the old ones in use; `failures` counts that.
    """

    def __init__(self, chain: Path, key: Path, client_ca: Path | None = None) -> None:
        self._chain = chain
        self._key = key
        self._client_ca = client_ca
        self._lock = threading.Lock()
        self._seen: tuple[object, ...] = ()
        self.reloads = 0
        self.failures = 0

    @property
    def asks_clients(self) -> bool:
        """Whether clients must show a certificate."""
        return self._client_ca is not None

    def credentials(self) -> grpc.ServerCredentials:
        """Return what a port is opened with; `ConfigError` says what is wrong with the files."""
        self._seen = self._signature()
        fetch: Any = self.changed  # its annotation forgets None, which means: as before
        return grpc.dynamic_ssl_server_credentials(self._read(), fetch, self.asks_clients)

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the files' new content, or None if they are as before or unusable."""
        with self._lock:
            signature = self._signature()
            if signature == self._seen:
                return None
            self._seen = signature
            try:
                read = self._read()
            except ConfigError as error:
                self.failures += 1
                log.error("%s; the certificates before stay in use", error)
                return None
            self.reloads += 1
        log.info("read the certificates anew from %s", self._chain)
        return read

    def _read(self) -> grpc.ServerCertificateConfiguration:
        try:
            chain, key = self._chain.read_bytes(), self._key.read_bytes()
            authority = None if self._client_ca is None else self._client_ca.read_bytes()
        except OSError as error:
            raise ConfigError(
                f"TLS file {error.filename} cannot be read: {error.strerror}"
            ) from None
        self._check()
        return grpc.ssl_server_certificate_configuration([(key, chain)], authority)

    def _check(self) -> None:
        """Raise `ConfigError` unless the files are PEM and fit: gRPC would fail handshakes only."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # Without a password of its own OpenSSL would ask for one on the terminal.
            context.load_cert_chain(self._chain, self._key, password="")
        except ssl.SSLError as error:
            raise ConfigError(
                f"TLS certificate {self._chain} and key {self._key} do not fit or are no "
                f"unencrypted PEM ({error.reason})"
            ) from None
        if self._client_ca is None:
            return
        try:
            context.load_verify_locations(self._client_ca)
        except ssl.SSLError as error:
            raise ConfigError(
                f"TLS client authority {self._client_ca} holds no PEM certificate ({error.reason})"
            ) from None

    def _signature(self) -> tuple[object, ...]:
        files = (self._chain, self._key, self._client_ca)
        return tuple(_state(path) for path in files if path is not None)


def _state(path: Path) -> object:
    try:
        found = os.stat(path)
    except OSError as error:
        return error.errno
    return found.st_mtime_ns, found.st_size, found.st_ino
