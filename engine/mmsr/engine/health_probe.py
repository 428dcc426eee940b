"""`python -m mmsr.engine.health_probe TARGET`: exit code 0 if it says SERVING, else 1 and a line.

For containers: the image needs no other tool to be asked how it does.
"""

from pathlib import Path
from typing import Annotated

import typer

from mmsr.bundle.terminal import run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def probe(
    target: Annotated[str, typer.Argument(help="HOST:PORT of mmsr-serve.")],
    service: Annotated[
        str, typer.Option(help="Full name of a gRPC service; empty: the whole server.")
    ] = "",
    timeout_s: Annotated[float, typer.Option(help="How long the answer may take.", min=0.1)] = 3.0,
    tls_ca: Annotated[
        Path | None, typer.Option(help="Authority of the server's certificate, PEM; sets TLS on.")
    ] = None,
    tls_name: Annotated[
        str | None, typer.Option(help="Name in the server's certificate, if it is not the host.")
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="Own certificate, PEM, for a server that asks for one.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key, PEM.")] = None,
) -> None:
    """Ask a server whether it serves."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from mmsr.engine.errors import ConfigError, Unavailable
    from mmsr.engine.target import check_target

    check_target(target)
    if tls_ca is None and (tls_name or tls_cert or tls_key):
        raise ConfigError("--tls-name, --tls-cert and --tls-key need --tls-ca")
    if tls_ca is None:
        channel = grpc.insecure_channel(target)
    else:
        parts = [
            None if path is None else path.read_bytes() for path in (tls_ca, tls_key, tls_cert)
        ]
        options = [("grpc.ssl_target_name_override", tls_name)] if tls_name else None
        channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(*parts), options)
    with channel:
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout_s)
        except grpc.RpcError as error:
            code, details = error.code().name, error.details()  # type: ignore[attr-defined]
            raise Unavailable(f"{target}: {code}: {details}") from None
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    if status != "SERVING":
        raise Unavailable(f"{target}: {status}")


def main() -> None:
    """Entry point of `python -m mmsr.engine.health_probe`."""
    run(app)


if __name__ == "__main__":
    main()
