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


async def talk_stateless(url, got):
    """The protocol of 2026-07-28, which that SDK does not speak yet, by hand."""
    version = "2026-07-28"
    about = {"io.modelcontextprotocol/protocolVersion": version, "io.modelcontextprotocol/clientCapabilities": {}}
    headers = {"Authorization": "Bearer " + os.environ["MCP_TOKEN"], "MCP-Protocol-Version": version,
               "Accept": "application/json, text/event-stream"}
    async with remembering(got)(headers) as http:
        results = []
        for id, (method, params) in enumerate([("tools/list", {}), ("tools/call", {"name": "test-tool", "arguments": {}})]):
            body = {"jsonrpc": "2.0", "id": id, "method": method, "params": {**params, "_meta": about}}
            answer = await http.post(url, json=body, headers={"Mcp-Method": method, **({"Mcp-Name": params["name"]} if params else {})})
            answer.raise_for_status()
            results.append(answer.json()["result"])
    got.append({"tools": [tool["name"] for tool in results[0]["tools"]], "result": results[1]["content"][0]["text"], "error": False})


def main():
    got = []
    try:
        try:
            asyncio.run(talk(sys.argv[-1], got))
        except BaseException:
            if not (got and "MCP-Protocol-Version" in got[-1].get("body", "")):
                raise
            asyncio.run(talk_stateless(sys.argv[-1], got))
    finally:
        with open(os.environ["CLIENT_GOT"], "w") as file:
            json.dump({"environment": dict(os.environ), "got": got}, file, indent=1)


if __name__ == "__main__":
    main()
