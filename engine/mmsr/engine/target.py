"""Where a server is, as a user names it. Connects to nothing."""

from mmsr.engine.errors import ConfigError

# Forms that gRPC knows beside HOST:PORT; what stands after these is its business.
GRPC_SCHEMES = frozenset({"dns", "ipv4", "ipv6", "unix", "unix-abstract", "vsock", "xds"})
MAX_PORT = 65_535


def check_target(target: str) -> None:
    """Raise `ConfigError` unless `target` is HOST:PORT, [IPv6]:PORT or begins with a gRPC scheme.

    Without a port gRPC would try the one of https and find nobody there.
    """
    if target.partition(":")[0] in GRPC_SCHEMES:
        return
    host, _, port = target.rpartition(":")
    named = bool(host) and (":" not in host or (host[0], host[-1]) == ("[", "]"))
    if not (named and port.isascii() and port.isdigit() and 1 <= int(port) <= MAX_PORT):
        raise ConfigError(f"target {target!r}; expected HOST:PORT, such as 127.0.0.1:50051")
