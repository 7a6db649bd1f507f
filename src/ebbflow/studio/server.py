"""The server: from a request to a listening socket and back to a quiet end."""

from __future__ import annotations

import importlib.util
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ebbflow.errors import ConfigError, missing
from ebbflow.requests.serving import Limits, Listening, ServeRequest, StudioRequest
from ebbflow.studio.guard import is_loopback, read_token

if TYPE_CHECKING:
    from ebbflow.studio.guard import Guard

PACKAGES = ("fastapi", "uvicorn", "python_multipart")


def require_web() -> None:
    """Raise an ImportError unless the packages of the server are installed."""
    for name in PACKAGES:
        if importlib.util.find_spec(name) is None:
            raise missing("the server", name.replace("_", "-"), "studio")


def serve(request: ServeRequest, ready: Callable[[str], None]) -> None:
    """Serve models until SIGINT or SIGTERM, then finish what was begun.

    Args:
        request: which, where, and within what limits.
        ready: is called with what to say when requests are answered.

    Raises:
        ImportError: the extra is not installed.
        ConfigError: an address that cannot be listened on, or that others reach without a token.
        CheckpointError: a run that cannot be opened.
    """
    require_web()
    from ebbflow.studio.application import application, desk_of
    from ebbflow.studio.meter import Meter
    from ebbflow.studio.shelf import Shelf, named

    token, meter = read_token(request.token_file, request.host), Meter()
    paths = named(request.runs)
    shelf = Shelf(paths, weights=request.weights, device=request.device, most=len(paths), meter=meter, say=log)
    for name in shelf.names:
        shelf.model(name)
    desk = desk_of(shelf, request, meter, log)
    app = application(desk, token=token, local=is_loopback(request.host))
    told = ", ".join(f"{name} (step {shelf.slot(name).step})" for name in shelf.names)
    listen(app, request, request, lambda url: ready(f"serving {told}\n{url}/v1 speaks as OpenAI's images do"))


def studio(request: StudioRequest, ready: Callable[[str], None]) -> None:
    """Show the runs of a folder as a page until SIGINT or SIGTERM; see `serve`.

    Raises:
        ImportError: the extra is not installed.
        ConfigError: no folder, or an address that cannot be listened on, or that others reach without a token.
    """
    require_web()
    from ebbflow.studio.application import application, desk_of
    from ebbflow.studio.meter import Meter
    from ebbflow.studio.page import FREE, Page
    from ebbflow.studio.shelf import Shelf
    from ebbflow.studio.trainings import Trainings

    token, meter = read_token(request.token_file, request.host), Meter()
    if request.folder.exists() and not request.folder.is_dir():
        raise ConfigError(f"`folder` {request.folder} is a file. Give the folder that holds the runs.")
    request.folder.mkdir(parents=True, exist_ok=True)
    desk = desk_of(Shelf({}, weights=request.weights, device=request.device, meter=meter, say=log), request, meter, log)
    page = Page(desk=desk, folder=request.folder, trainings=Trainings(request.folder, request.data_root))
    app = application(desk, token=token, local=is_loopback(request.host), free=FREE, add=page.add_to)
    listen(app, request, request, lambda url: ready(f"the runs in {request.folder}: open {url}"))


def listen(app: Guard, where: Listening, limits: Limits, ready: Callable[[str], None]) -> None:
    """Answer requests until SIGINT or SIGTERM; `ready` is called with the address.

    Raises:
        ConfigError: an address that cannot be listened on.
    """
    import uvicorn

    class Server(uvicorn.Server):
        """One whose quiet end is no death by the signal that asked for it."""

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

    bound = bind(where.host, where.port)
    host, port = bound.getsockname()[:2]
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=round(limits.grace) + 1,
        timeout_keep_alive=30,
        h11_max_incomplete_event_size=64 * 1024,
    )
    ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
    Server(config).run(sockets=[bound])


def bind(host: str, port: int) -> socket.socket:
    """A socket that is bound to an address.

    Raises:
        ConfigError: it is taken, or not of this machine.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, proto)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(2048)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}, `port` {port}: {error.strerror}. Choose another `port`, or 0 for a free one."
        ) from error
    return bound


def log(line: str) -> None:
    """A line for the operator."""
    print(line, file=sys.stderr, flush=True)
