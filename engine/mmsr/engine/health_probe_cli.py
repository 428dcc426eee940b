"""`python -m mmsr.engine.health_probe`: its flags."""

from pathlib import Path
from typing import Annotated

import typer

from mmsr.bundle.terminal import run
from mmsr.engine.errors import ConfigError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def probe(
    target: Annotated[
        str,
        typer.Argument(help="HOST:PORT of mmsr-serve, or the URL of a probe of its metrics port."),
    ],
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
    """Ask a server whether it serves.

    HOST:PORT answers as soon as it has time; http://HOST:METRICS_PORT/readyz and /livez are
    answered at once, whatever the load.
    """
    if target.startswith("http://"):
        from mmsr.engine.health_url import check_url

        if service or any((tls_ca, tls_name, tls_cert, tls_key)):
            raise ConfigError("--service and --tls-... are for HOST:PORT; expected a URL alone")
        check_url(target, timeout_s)
        return
    from mmsr.engine.health_probe import Tls, check_serving

    tls = Tls(ca=tls_ca, name=tls_name, cert=tls_cert, key=tls_key)
    check_serving(target, service, timeout_s, tls)


def main() -> None:
    """Entry point of `python -m mmsr.engine.health_probe`."""
    run(app)
