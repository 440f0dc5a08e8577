from aiohttp import web


async def openapi(request: web.Request) -> web.Response:
    return web.json_response({})
