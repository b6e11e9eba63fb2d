"""The tools of the Model Context Protocol, asked by a real client over standard input and output."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
from mcp import ClientSession, StdioServerParameters, stdio_client

from lvlm_atlas import load
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.roofline.contract import contract

ATLAS = load()
SERVER = StdioServerParameters(command=sys.executable, args=["-m", "lvlm_atlas", "mcp"])
SUBJECT = {"model": "qwen2.5-vl-7b", "hardware": "l40s"}


def session(talk: Callable[[ClientSession], Awaitable[None]]) -> None:
    """Talk to a server of its own, for two minutes at most."""

    async def run() -> None:
        with anyio.fail_after(120):
            async with stdio_client(SERVER) as streams, ClientSession(*streams) as client:
                await client.initialize()
                await talk(client)

    # In a thread of its own: a browser test before it may have left a loop running in this one.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(anyio.run, run).result()


def test_a_client_finds_documented_tools_and_gets_what_commands_print() -> None:
    async def talk(client: ClientSession) -> None:
        tools = (await client.list_tools()).tools
        assert all(tool.description and len(tool.description) > 40 for tool in tools)
        assert {tool.name for tool in tools} == {"search", "show", "estimate", "plan", "interactions", "cite"}

        async def ask(tool: str, **arguments: Any) -> Any:
            answer = await client.call_tool(tool, arguments)
            assert not answer.is_error, answer
            text = answer.content[0].text  # type: ignore[union-attr]
            return text if tool == "cite" else json.loads(text)

        everything = await ask("search")
        assert {row["id"] for row in everything["techniques"]} == set(ATLAS.atlas.techniques)
        narrowed = await ask("search", query="conflicts-with(fastv)")
        assert {row["id"] for row in narrowed["techniques"]} == set(ATLAS.query("conflicts-with(fastv)").ids)
        assert all(row["because"][0]["edges"] for row in narrowed["techniques"])
        nothing = await ask("search", query="stage:encoding acts_at:decode-loop")
        assert (nothing["techniques"], bool(nothing["why_empty"])) == ([], True)

        shown = await ask("show", id="FastV")
        assert shown["records"][0]["id"] == "fastv"
        assert (await ask("show", id="l40s"))["records"][0]["record"] == "device"

        planner = Planner()
        estimated = await ask("estimate", **SUBJECT, stack="fastv+kivi")
        assert estimated == json.loads(json.dumps(contract(planner.estimate(*SUBJECT.values(), stack="fastv+kivi"))))
        more = await ask("estimate", **SUBJECT, images=4)
        assert more["tokens"]["vision"] == 4 * (await ask("estimate", **SUBJECT))["tokens"]["vision"]
        assert (await ask("estimate", **SUBJECT, efficiency="typical"))["ttft_s"] > estimated["ttft_s"]

        plan = await ask("plan", **SUBJECT, goal="ttft", training="none", require="fastv", max_techniques=2)
        assert plan["options"] if "options" in plan else plan["front"]
        pair = await ask("interactions", one="fastv", two="kivi", **SUBJECT)
        assert {edge["kind"] for edge in pair["edges"]} == {edge.kind for edge in ATLAS.between("fastv", "kivi")}
        assert "chen2024fastv" in await ask("cite", words=["fastv"], style="latex")

    session(talk)


BAD = {
    "did you mean 'prefilling'?": ("search", {"query": "stage:prefiling"}),
    "did you mean 'fastv'?": ("show", {"id": "fastvv"}),
    "needs `cls-token`": ("estimate", {**SUBJECT, "stack": "visionzip"}),
    "no metric 'speed'": ("plan", {**SUBJECT, "goal": "speed"}),
}


def test_bad_input_gives_the_sentence_that_a_person_would_get() -> None:
    async def talk(client: ClientSession) -> None:
        for sentence, (tool, arguments) in BAD.items():
            answer = await client.call_tool(tool, arguments)
            assert answer.is_error
            assert sentence in answer.content[0].text  # type: ignore[union-attr]

    session(talk)
