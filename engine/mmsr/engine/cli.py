"""`mmsr-serve`: flags, environment and file to settings, log lines to standard error."""

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmsr.bundle.terminal import run
from mmsr.engine.config import ServeConfig
from mmsr.engine.config_keys import Setting, settings_of

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
Config = Annotated[
    Path | None,
    typer.Option("--config", help="TOML file with sections; --print-config writes one."),
]
PrintConfig = Annotated[
    bool,
    typer.Option("--print-config", help="Print the settings, where each is from, and end."),
]


def parameter_of(setting: Setting) -> inspect.Parameter:
    """Return the command's parameter for a setting that has a flag."""
    about = setting.key.about
    option = typer.Option(
        setting.key.flag,
        help=f"{about[0].upper()}{about[1:]}.",
        show_default=setting.default_text,
        rich_help_panel=setting.section,
    )
    kind = list[str] if setting.is_list else setting.kind
    return inspect.Parameter(
        f"{setting.section}_{setting.name}",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )


def with_flags_of(config: type) -> "Callable[[Callable[..., None]], Callable[..., None]]":
    """Give a command one parameter for each key of `config` that has a flag."""
    own = [parameter_of(setting) for setting in settings_of(config) if setting.key.flag]

    def decorate(command: "Callable[..., None]") -> "Callable[..., None]":
        named = [
            parameter
            for parameter in inspect.signature(command).parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        signature: Any = inspect.Signature([*named, *own])
        command.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        command.__signature__ = signature  # type: ignore[attr-defined]
        return command

    return decorate


@app.command()
@with_flags_of(ServeConfig)
def serve(*, config: Config = None, print_config: PrintConfig = False, **flags: object) -> None:
    """Serve recommendations over gRPC until SIGTERM or Ctrl-C.

    A flag goes before the environment (MMSR_SERVE_<SECTION>_<KEY>), that before the file, that
    before the default.
    """
    import os

    from mmsr.engine.config_sources import printed, read_config
    from mmsr.engine.log_lines import log_to_stderr

    given = {
        (setting.section, setting.name): flags[f"{setting.section}_{setting.name}"]
        for setting in settings_of(ServeConfig)
        if setting.key.flag
    }
    effective = read_config(ServeConfig, config, os.environ, given)
    if print_config:
        typer.echo(printed(effective), nl=False)
        return
    observe = effective.config.observe
    log_to_stderr(observe.log_format, observe.log_level)
    _run(effective.config)


def _run(config: ServeConfig) -> None:
    import asyncio
    import os

    from mmsr.engine.memory import keep_large_blocks_apart, use_one_allocator
    from mmsr.engine.server import serve as serve_until_told

    keep_large_blocks_apart(os.environ)
    use_one_allocator(os.environ)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(serve_until_told(config))


def _loop_factory() -> "Callable[[], AbstractEventLoop] | None":
    """Return uvloop's loop where it is installed (15-20 % more requests/s), else asyncio's."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    factory: Callable[[], AbstractEventLoop] = uvloop.new_event_loop
    return factory


def main() -> None:
    """Entry point of `mmsr-serve`."""
    run(app)


if __name__ == "__main__":
    main()
