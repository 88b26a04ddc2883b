"""The HTTP API and the page: what requests mean. What they do is done by the service."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, FastAPI, Header, Path, Response
from fastapi.sse import EventSourceResponse
from fastapi.staticfiles import StaticFiles
from starlette.responses import FileResponse

from producers.campaigns import problems
from producers.campaigns.answers import (
    Acted,
    Campaign,
    Campaigns,
    DryRun,
    Forgotten,
    Problem,
    Progress,
)
from producers.campaigns.model import CampaignSpec, DeadToken  # noqa: TC001 - the framework reads annotations
from producers.campaigns.security import Guard, SecurityHeaders

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from producers.campaigns.service import CampaignService
    from producers.campaigns.watching import Watching

MOST_BODY = 2 * 2**20
MOST_DEAD = 10_000
PAGE = FilePath(__file__).parent / "page"
_DESCRIPTION = """\
Starts push campaigns, watches and ends them. Every call may be repeated: a second create with the same
`id` or `Idempotency-Key` and the same content answers with the campaign that is there, a second start
sends nothing twice. Faults are `application/problem+json` (RFC 9457). Servers that did not answer are
named in `unanswered`.
"""

Name = Annotated[
    str, Path(alias="id", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", examples=["spring-sale"])
]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key", min_length=1, max_length=255,
        description="the same key with the same content is the same campaign",
    ),
]  # fmt: skip


def _faults(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {
        status: {"model": Problem, "content": {"application/problem+json": {}}} for status in (401, *statuses)
    }


def make_app(
    service: CampaignService, watching: Watching, *, token: str, feedback_token: str | None = None
) -> FastAPI:
    """Return the ASGI application; it closes the service when it ends."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await watching.close()
        service.close()

    app = FastAPI(
        title="Push campaigns",
        version="1",
        description=_DESCRIPTION,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        max_body_size=MOST_BODY,
        redirect_slashes=False,
    )
    problems.install(app)
    app.add_middleware(SecurityHeaders)
    app.include_router(_campaigns(service, watching, Guard(token)))
    tokens = (token, feedback_token) if feedback_token else (token,)
    app.include_router(_feedback(service, Guard(*tokens, basic=True)))
    _page(app)
    return app


def _campaigns(service: CampaignService, watching: Watching, guard: Guard) -> APIRouter:
    router = APIRouter(prefix="/campaigns", tags=["campaigns"], dependencies=[Depends(guard)])

    @router.post("", status_code=201, responses={**_faults(409, 422, 503), 200: {"model": Campaign}})
    async def create(spec: CampaignSpec, response: Response, key: Key = None) -> Campaign:
        """Create a campaign; nothing is sent yet. 200 instead of 201: it was there already."""
        campaign, new = await service.create(spec, key)
        response.status_code = 201 if new else 200
        response.headers["location"] = f"/campaigns/{campaign.id}"
        return campaign

    @router.post("/dry-run", responses=_faults(422, 503))
    async def dry_run(spec: CampaignSpec) -> DryRun:
        """Check a campaign and count whom it would reach; nothing is created."""
        return await service.dry_run(spec)

    @router.get("", responses=_faults(503))
    async def campaigns() -> Campaigns:
        """Return all campaigns, the youngest first."""
        return await service.campaigns()

    @router.get("/{id}", responses=_faults(404, 503))
    async def campaign(id: Name) -> Campaign:  # noqa: A002 - the path's name
        """Return a campaign as it was created, and its state."""
        return await service.get(id)

    @router.get("/{id}/progress", responses=_faults(404, 503))
    async def progress(id: Name) -> Progress:  # noqa: A002
        """Return how far it is, by server and platform."""
        return await service.progress(id)

    @router.get(
        "/{id}/events",
        response_class=Response,  # the other class would want a generator here, too late for a 404
        responses={**_faults(404, 503), 200: {"content": {"text/event-stream": {}}}},
    )
    async def events(id: Name) -> EventSourceResponse:  # noqa: A002
        """Stream progress as server-sent events: `progress`, `problem`, and `end` once it is over."""
        return EventSourceResponse(await watching.events(id))

    @router.post("/{id}/start", responses=_faults(404, 409, 503))
    async def start(id: Name) -> Acted:  # noqa: A002
        """Start it in each shard, at the first server that answers; where it runs already, do nothing."""
        return await service.start(id)

    @router.post("/{id}/{action}", responses=_faults(404, 409, 503))
    async def act(id: Name, action: Literal["pause", "resume", "cancel", "revoke"]) -> Acted:  # noqa: A002
        """At all servers: pause it, go on, cancel it (what is queued is sent), revoke it (it is dropped)."""
        return await service.act(id, action)

    return router


def _feedback(service: CampaignService, guard: Guard) -> APIRouter:
    router = APIRouter(tags=["feedback"], dependencies=[Depends(guard)])

    @router.post("/feedback", responses=_faults(422, 503))
    async def feedback(dead: Annotated[list[DeadToken], Body(max_length=MOST_DEAD)]) -> Forgotten:
        """Delete dead tokens, as the sending side reports them, unless they were registered again since."""
        return await service.forget(dead)

    return router


def _page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers={"cache-control": "no-cache"})

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    app.mount("/page", StaticFiles(directory=PAGE), name="page")
