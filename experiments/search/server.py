"""The search page and its JSON interface, over HTTP, for the person at this machine.

Nothing is written but thumbnails in memory, and nothing is sent but what the index knows: files are re-encoded, so that
places and names in their EXIF blocks stay here.
"""

import asyncio
import io
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from PIL import Image

from contextcir.checks import whole
from contextcir.errors import InputError, one_line, shown
from contextcir.search.index import Where
from contextcir.search.queries import Found, Query
from experiments.search.answers import as_json, export, found_json, photo_json
from experiments.search.asking import Asked, BadImageError, TooLargeError, check_size, read_upload, sees_a_square
from experiments.search.batching import Batcher, QueueFull
from experiments.search.catalogue import Catalogue, UnknownImageError
from experiments.search.endpoints import endpoints_page
from experiments.search.guard import LOOPBACK, Guard, check_token
from experiments.search.limits import Limits

if TYPE_CHECKING:
    from fastapi import FastAPI
    from uvicorn import Server

    from contextcir.search.searcher import Searcher

PAGE = Path(__file__).parent / "page"
TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
JSON = "application/json"
STATUSES = {TooLargeError: 413, UnknownImageError: 404, BadImageError: 400}  # of errors; 422 of others in a request
GONE = 499  # nobody reads it: nginx's number for clients that hang up
KEPT = {"cache-control": "private, max-age=3600"}
Value = TypeVar("Value")


def create_app(
    searcher: "Searcher",
    token: str | None = None,
    limits: Limits = Limits(),  # noqa: B008  (immutable)
    hosts: Collection[str] | None = LOOPBACK,
) -> "FastAPI":
    """Return the application.

    Args:
        searcher: with an index, and the folder of its images.
        token: that a client has to give; None for none.
        limits: of what a client may send.
        hosts: names that the server may be called by; None for any, which needs a token.

    Raises:
        InputError: if neither a token nor a name protects, or the token is none that a cookie can hold.
    """
    from fastapi import FastAPI, File, Form, Request, Response, UploadFile
    from fastapi import Query as Parameter

    check_token(token, hosts)
    catalogue = Catalogue(searcher.index, searcher.folder)
    batcher: Batcher[Any, Found] = Batcher(searcher.search_many, limits)
    decoders = asyncio.Semaphore(limits.decoders)
    crops = sees_a_square(searcher.model.preprocess)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        await batcher.start()
        yield
        await batcher.stop()

    app = FastAPI(title="Search by image and text", docs_url=None, redoc_url=None, lifespan=life)
    app.add_middleware(Guard, token=token, hosts=hosts, most=limits.body)
    _answer_errors(app)
    _serve_files(app)

    def reply(value: Any) -> Response:
        return Response(as_json(value), media_type=JSON, headers={"cache-control": "no-store"})

    async def decoded(read: Callable[[], Value]) -> Value:
        async with decoders:
            return await asyncio.to_thread(read)

    @app.get("/api/about")
    async def about() -> Response:
        """Tell the model, whether it sees only the middle of an image, and how many images there are of which kinds."""
        overview = await asyncio.to_thread(catalogue.overview)
        bounds = {"images": limits.images, "image_bytes": limits.image_bytes, "text": limits.text, "k": limits.count}
        return reply({"model": str(searcher.described["model"]), "crops": crops, "limits": bounds, **overview})

    @app.get("/api/sample")
    async def sample(
        count: Annotated[int, Parameter(ge=1, le=limits.count)] = 24,
        seed: int = 0,
        folder: str = "",
        since: str = "",
        until: str = "",
        formats: Annotated[list[str], Parameter()] = [],  # noqa: B006
    ) -> Response:
        """Return some images of the index, drawn at random: something to begin with."""
        where: Where = Asked(folder=folder, since=since, until=until, formats=formats).where()
        return reply([photo_json(photo) for photo in await asyncio.to_thread(catalogue.sample, count, seed, where)])

    @app.post("/api/search")
    async def search(
        request: Request,
        images: Annotated[list[UploadFile], File(description="uploaded references")] = [],  # noqa: B006
        references: Annotated[list[str], Form(description="images of the index: paths or ids")] = [],  # noqa: B006
        text: Annotated[str, Form(description="what shall differ")] = "",
        k: Annotated[int, Form(ge=1, le=limits.count, description="results")] = 20,
        balance: Annotated[float, Form(ge=0, le=1, description="0: the image alone; 1: the text alone")] = 0.5,
        without: Annotated[list[str], Form(description="images that are not wanted: paths or ids")] = [],  # noqa: B006
        folder: Annotated[str, Form(description="images in it or below it")] = "",
        since: Annotated[str, Form(description="taken on this day, month or year, or later")] = "",
        until: Annotated[str, Form(description="taken on this day, month or year, or earlier")] = "",
        formats: Annotated[list[str], Form(description="such as JPEG")] = [],  # noqa: B006
        fold: Annotated[bool, Form(description="put near-duplicates together")] = True,
        maps: Annotated[bool, Form(description="tell what each phrase attends to")] = False,
    ) -> Response:
        """Return the images that fit the references as the text changes them, the best one first."""
        for upload in images:
            check_size(upload.size or 0, limits)
        uploads = [await upload.read() for upload in images]
        asked = Asked(uploads, references, text, k, balance, without, folder, since, until, formats, fold, maps)
        asked.check(limits)
        own = await asyncio.to_thread(catalogue.find, references)
        unwanted = await asyncio.to_thread(catalogue.find, without)
        opened = [await decoded(partial(catalogue.open, photo, limits.side)) for photo in own]
        for content, upload in zip(uploads, images, strict=True):
            opened.append(await decoded(partial(read_upload, content, upload.filename or "", limits.side)))
        query = asked.query(opened, unwanted)
        await asyncio.to_thread(searcher.check, query)
        found = await _unless_gone(request, batcher.ask(query))
        if found is None:
            return Response(status_code=GONE)
        return reply(found_json(found, [photo.path for photo in own], k))

    @app.get("/api/thumbnail/{name}")
    async def thumbnail(name: str) -> Response:
        """Return the small JPEG of an image."""
        photo = await asyncio.to_thread(catalogue.by_id, name)
        return Response(photo.thumbnail, media_type="image/jpeg", headers=KEPT)

    @app.get("/api/image/{name}")
    async def image(name: str) -> Response:
        """Return an image upright as a JPEG of at most 1600 pixels, without what its file says about it."""
        photo = await asyncio.to_thread(catalogue.by_id, name)

        def encode() -> bytes:
            file = io.BytesIO()
            catalogue.open(photo, limits.side).save(file, "JPEG", quality=88)
            return file.getvalue()

        return Response(await decoded(encode), media_type="image/jpeg", headers=KEPT)

    @app.post("/api/export")
    async def export_list(
        paths: Annotated[list[str], Form(description="images of the index: paths or ids")],
        format: Annotated[str, Form(description="text or json")] = "text",
    ) -> Response:
        """Return a list of images as a file."""
        if len(paths) > limits.export:
            raise TooLargeError(f"at most {limits.export:,} images, got {len(paths):,}", setting="paths")
        content, name = export(await asyncio.to_thread(catalogue.find, paths), format)
        kind = JSON if format == "json" else "text/plain; charset=utf-8"
        return Response(content, media_type=kind, headers={"content-disposition": f'attachment; filename="{name}"'})

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(endpoints_page(app.openapi()), media_type=TYPES[".html"])

    return app


async def _unless_gone(request: Any, asked: Awaitable[Found]) -> Found | None:
    """Return an answer, or None as soon as the client does not wait for it any more."""
    answer = asyncio.ensure_future(asked)
    gone = asyncio.ensure_future(request.receive())  # after the body, there is nothing else to receive
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        return answer.result() if answer.done() else None
    finally:
        for waiting in (answer, gone):
            waiting.cancel()


def _serve_files(app: "FastAPI") -> None:
    """Serve the files of the page, which are read once."""
    from fastapi import HTTPException, Response

    files = {file.name: (file.read_bytes(), TYPES[file.suffix]) for file in PAGE.iterdir() if file.suffix in TYPES}

    @app.get("/", include_in_schema=False)
    @app.get("/page/{name}", include_in_schema=False)
    async def page(name: str = "index.html") -> Response:
        if name not in files:
            raise HTTPException(404)
        content, kind = files[name]
        return Response(content, media_type=kind, headers={"cache-control": "no-cache"})


def _answer_errors(app: "FastAPI") -> None:
    """Answer every error with one line of JSON."""
    from fastapi import HTTPException, Request, Response
    from fastapi.exceptions import RequestValidationError

    def problem(status: int, text: str, **headers: str) -> Response:
        return Response(as_json({"error": one_line(text)}), status, headers, JSON)

    @app.exception_handler(InputError)
    async def of_input(request: Request, error: InputError) -> Response:
        status = next((code for kind, code in STATUSES.items() if isinstance(error, kind)), 422)
        return problem(status, error.problem if error.setting is None else f"{error.setting}: {error.problem}")

    @app.exception_handler(RequestValidationError)
    async def of_fields(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        given = f", got {shown(first['input'])}" if isinstance(first.get("input"), str | int | float) else ""
        return problem(422, f"{first['loc'][-1]}: {first['msg']}{given}")

    @app.exception_handler(QueueFull)
    async def of_queue(request: Request, error: QueueFull) -> Response:
        return problem(503, "too many searches wait already: try again in a moment", **{"retry-after": "1"})

    @app.exception_handler(HTTPException)
    @app.exception_handler(400)  # those that Starlette raises by itself
    @app.exception_handler(404)
    @app.exception_handler(405)
    async def of_http(request: Request, error: HTTPException) -> Response:
        return problem(error.status_code, str(error.detail))

    @app.exception_handler(Exception)
    async def of_others(request: Request, error: Exception) -> Response:
        return problem(500, "the search failed; the terminal of the server shows why")


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes a free one.

    Raises:
        InputError: if the address can't be taken.
    """
    whole(port, 0, "port", 65535)
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"can't listen on {shown(host)}, port {port}: {reason}", setting="port") from None


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address."""
    return host == "localhost" or host == "::1" or host.startswith("127.")


def warm_up(searcher: "Searcher") -> None:
    """Ask one query, so that the first client does not wait until parsers and kernels are loaded."""
    with suppress(InputError):
        searcher.search_many([Query((Image.new("RGB", (64, 64)),), "a photo", count=1, maps=True)])


@contextmanager
def prepared(
    searcher: "Searcher", host: str, port: int, token: str | None, limits: Limits
) -> Iterator[tuple["Server", socket.socket, str]]:
    """Give a server that has not started, its socket, and the address to open, with the token if there is one."""
    from uvicorn import Config, Server

    local = is_loopback(host)
    if not local and not token:
        token = secrets.token_urlsafe(24)
    app = create_app(searcher, token, limits, (*LOOPBACK, host) if local else None)
    with listen(host, port) as listening:
        warm_up(searcher)
        name = f"[{host}]" if ":" in host else host
        address = f"http://{name}:{listening.getsockname()[1]}/" + (f"?token={token}" if token else "")
        config = Config(app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=5)
        yield Server(config), listening, address


def serve(
    searcher: "Searcher",
    host: str = "127.0.0.1",
    port: int = 7860,
    token: str | None = None,
    limits: Limits = Limits(),  # noqa: B008  (immutable)
    ready: Callable[[str], None] = lambda address: print(f"open {address} (Ctrl-C stops)", flush=True),
) -> None:
    """Serve the page until Ctrl-C.

    Args:
        searcher: with an index.
        host: to listen on; from outside of this machine, a token is needed, and made if none is given.
        port: 0 takes a free one.
        token: that a client has to give.
        limits: of what a client may send.
        ready: called with the address once clients can connect.

    Raises:
        InputError: if the address can't be taken.
    """
    with prepared(searcher, host, port, token, limits) as (server, listening, address):
        ready(address)
        server.run(sockets=[listening])


@contextmanager
def running(
    searcher: "Searcher",
    host: str = "127.0.0.1",
    port: int = 0,
    token: str | None = None,
    limits: Limits = Limits(),  # noqa: B008  (immutable)
) -> Iterator[str]:
    """Serve the page in a thread while the block runs, and give its address."""
    with prepared(searcher, host, port, token, limits) as (server, listening, address):
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield address
        finally:
            server.should_exit = True
            thread.join(20)
