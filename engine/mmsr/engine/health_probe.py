"""`python -m mmsr.engine.health_probe TARGET`: exit code 0 if it says SERVING, else 1 and a line.

For containers: the image needs no other tool to be asked how it does.
"""

from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mmsr.engine.errors import ConfigError, Unavailable
from mmsr.engine.target import check_target


@dataclass(frozen=True, kw_only=True)
class Tls:
    """How a server with TLS is met; without `ca` there is none."""

    ca: Path | None = None  # authority of the server's certificate
    name: str | None = None  # in that certificate, if it is not the host
    cert: Path | None = None  # own certificate and key, for a server that asks
    key: Path | None = None

    def channel(self, target: str) -> grpc.Channel:
        """Return a channel that connects when it is used."""
        if self.ca is None:
            if self.name or self.cert or self.key:
                raise ConfigError("--tls-name, --tls-cert and --tls-key need --tls-ca")
            return grpc.insecure_channel(target)
        files = (self.ca, self.key, self.cert)
        parts = [None if path is None else path.read_bytes() for path in files]
        options = [("grpc.ssl_target_name_override", self.name)] if self.name else None
        return grpc.secure_channel(target, grpc.ssl_channel_credentials(*parts), options)


def check_serving(target: str, service: str, timeout_s: float, tls: Tls) -> None:
    """Raise `Unavailable` unless the server says SERVING within the time."""
    check_target(target)
    with tls.channel(target) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise Unavailable(f"{target}: {error.code().name}: {error.details()}") from None
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    if status != "SERVING":
        raise Unavailable(f"{target}: {status}")


if __name__ == "__main__":
    from mmsr.engine.health_probe_cli import main

    main()
