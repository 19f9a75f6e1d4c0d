# SPDX-License-Identifier: GPL-2.0-or-later
"""`/import`: an export comes in, how far it is, and that it need not go on."""

from __future__ import annotations

from aiohttp import web

from chatgpt_rest.api.answers import json_response
from chatgpt_rest.api.uploads import receive
from chatgpt_rest.chatgpt_json import is_id
from chatgpt_rest.context import JOBS, PRINCIPAL
from chatgpt_rest.errors import NotFound


async def start(request: web.Request) -> web.Response:
    """`POST /import`: one or more parts `file`, or a ZIP as the body; `dry_run`. Answers the job that it becomes."""
    jobs = request.app[JOBS]
    async with jobs.receiving(request[PRINCIPAL].account) as upload:
        fields = await receive(request, upload.spool)
        await jobs.begin(upload, dry_run=fields.boolean("dry_run") or False)
    url = f"/import/{upload.id}"
    response = json_response({"job": upload.id, "state": upload.state, "url": url}, status=202)
    response.headers["Location"] = url
    return response


async def status(request: web.Request) -> web.Response:
    """`GET /import/{job}`: how far it is and, in the end, its ledger."""
    return json_response(await request.app[JOBS].status(request[PRINCIPAL].account, _job(request)))


async def cancel(request: web.Request) -> web.Response:
    """`DELETE /import/{job}`: it ends here; what came stays."""
    await request.app[JOBS].cancel(request[PRINCIPAL].account, _job(request))
    return web.Response(status=204)


def _job(request: web.Request) -> str:
    job_id = request.match_info["job"]
    if not is_id(job_id):
        raise NotFound("import")
    return job_id
