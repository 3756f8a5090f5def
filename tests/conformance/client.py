"""The agent: the MCP SDK as it comes, with a placeholder where others have a token. It knows the URL of the MCP server
and what stands in its environment, nothing else; OAuth, keys, proofs and nonces are not in this program."""

import asyncio
import json
import os
import sys

import httpx
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client


def remembering(got):
    """The SDK's own HTTP client, which also writes down everything that it got."""

    def factory(headers=None, timeout=None, auth=None):
        async def note(response):
            got.append({"status": response.status_code, "headers": list(response.headers.multi_items())})
            if response.headers.get("content-type", "").startswith("application/json"):
                got[-1]["body"] = (await response.aread()).decode(errors="replace")

        return httpx.AsyncClient(headers=headers, timeout=timeout or 30, auth=auth, event_hooks={"response": [note]})

    return factory


async def talk(url, got):
    headers = {"Authorization": "Bearer " + os.environ["MCP_TOKEN"]}
    async with (streamablehttp_client(url, headers=headers, httpx_client_factory=remembering(got)) as (read, write, _),
                ClientSession(read, write) as session):
        await session.initialize()
        names = [tool.name for tool in (await session.list_tools()).tools]
        result = await session.call_tool("test-tool", {})
        got.append({"tools": names, "result": result.content[0].text, "error": result.isError})


def main():
    got = []
    try:
        asyncio.run(talk(sys.argv[-1], got))
    finally:
        with open(os.environ["CLIENT_GOT"], "w") as file:
            json.dump({"environment": dict(os.environ), "got": got}, file, indent=1)


if __name__ == "__main__":
    main()
