"""`evertalk chat`: a plain line-based chat, for two terminals and a demonstration."""

from __future__ import annotations

import asyncio
import getpass
import sys
from pathlib import Path

from evertalk.client import Client, Connected, Disconnected, Endpoint, Gap, register, sign_in
from evertalk.cluster.local import load_cluster
from evertalk.core.errors import Code, EvertalkError, PeerUnavailable, Refused
from evertalk.core.ids import normalize_handle
from evertalk.core.model import Applied, Conversation, Deletion, Edit, Message, Reaction

_HELP = """\
/to HANDLE          talk with somebody
/group TITLE: A, B  start a group
/list               your conversations; /open N goes to one
/history            the last messages here
/help, /quit"""


class Chat:
    """One person at one terminal."""

    def __init__(self, client: Client, me: str) -> None:
        self._client = client
        self._me = me
        self._here: bytes | None = None
        self._listed: list[bytes] = []
        self._names: dict[bytes, str] = {}
        self._titles: dict[bytes, str] = {}

    async def name(self, account: bytes) -> str:
        """Handle of an account, asked for once."""
        if account == self._client.account:
            return self._me
        if account not in self._names:
            for found in await self._client.look_up(accounts=[account]):
                self._names[found.account] = found.handle
        return self._names.get(account, account.hex()[-6:])

    async def title(self, scope: bytes) -> str:
        """What to call a conversation."""
        if scope not in self._titles:
            for one in await self._client.conversations():
                others = [await self.name(account) for account in one.members if account != self._client.account]
                self._titles[one.scope] = one.title or ", ".join(others)
        return self._titles.get(scope, "?")

    async def listen(self) -> None:
        """Print what happens, until cancelled."""
        async for happening in self._client.events():
            match happening:
                case Connected(region=region, node=node):
                    print(f"-- connected to {node} in {region}", flush=True)
                case Disconnected(region=region, reason=reason):
                    print(f"-- lost {region}: {reason}; looking for another node", flush=True)
                case Gap():
                    print("-- some messages are not reachable yet; they will appear when their region returns")
                case Applied():
                    await self._print(happening)

    async def _print(self, one: Applied) -> None:
        event = one.event
        try:
            who, where = await self.name(event.sender), await self.title(event.scope)
        except EvertalkError:
            who, where = event.sender.hex()[-6:], "?"
        late = " (late)" if one.late else ""
        match event.body:
            case Message(text=text):
                print(f"[{where}] {who}: {text}{late}", flush=True)
                self._here = self._here or event.scope
            case Edit(text=text):
                print(f"[{where}] {who} edited: {text}", flush=True)
            case Reaction(emoji=emoji, removed=removed):
                print(f"[{where}] {who} {'took back' if removed else 'reacts'} {emoji}", flush=True)
            case Deletion():
                print(f"[{where}] {who} deleted a message", flush=True)
            case Conversation():
                print(f"[{where}] {who} started this conversation", flush=True)
                self._here = self._here or event.scope
            case _:
                pass

    async def line(self, line: str) -> bool:
        """Do what was typed; False to leave."""
        command, _, rest = line.partition(" ")
        match command:
            case "/quit":
                return False
            case "/help":
                print(_HELP)
            case "/to":
                await self._to(rest.strip())
            case "/group":
                await self._group(rest)
            case "/list":
                await self._list()
            case "/open":
                if not self._listed:
                    await self._list()
                elif rest.strip().isdigit() and 1 <= int(rest) <= len(self._listed):
                    self._here = self._listed[int(rest) - 1]
                    await self._history()
                else:
                    print(f"/open takes a number from 1 to {len(self._listed)}")
            case "/history":
                await self._history()
            case _ if command.startswith("/"):
                print(f"there is no command {command}; /help tells what there is")
            case _ if line.strip():
                await self._say(line)
            case _:
                pass
        return True

    async def _say(self, text: str) -> None:
        if self._here is None:
            print("nobody to talk to yet: /to HANDLE")
            return
        sent = await self._client.send(self._here, text)
        print(f"   ({sent.durability.name.lower()})", flush=True)

    async def _to(self, handle: str) -> None:
        found = await self._client.look_up(handles=[normalize_handle(handle)])
        if not found:
            print(f"nobody is called {handle!r} here (yet)")
            return
        self._here = (await self._client.direct(found[0].account)).id
        print(f"talking with {handle}")

    async def _group(self, rest: str) -> None:
        title, _, names = rest.partition(":")
        handles = [normalize_handle(n) for n in names.split(",") if n.strip()]
        found = await self._client.look_up(handles=handles)
        if len(found) != len(handles):
            print("not all of them are known here; /group TITLE: handle, handle")
            return
        self._here = (await self._client.create_group(title.strip(), [f.account for f in found])).id
        print(f"group {title.strip()!r} is open")

    async def _list(self) -> None:
        views = await self._client.conversations()
        self._listed = [v.scope for v in views]
        for number, view in enumerate(views, 1):
            print(f"{number:3}  {await self.title(view.scope)}")

    async def _history(self) -> None:
        if self._here is None:
            print("nobody to talk to yet: /to HANDLE")
            return
        page = await self._client.history(self._here)
        for one in page.messages:
            if isinstance(one.event.body, Message):
                print(f"  {await self.name(one.event.sender)}: {one.event.body.text}")
        if page.gap:
            print("-- not everything is reachable yet")


async def _enter(endpoints: list[Endpoint], handle: str, password: str) -> str:
    try:
        return (await sign_in(endpoints, handle, password)).token
    except Refused as refused:
        if refused.code is not Code.UNKNOWN_ACCOUNT:
            raise
    made = await register(endpoints, handle, password)
    print(f"-- new account {handle!r} ({made.durability.name.lower()})")
    return made.token


def _endpoints(directory: Path, region: str, given: list[str]) -> list[Endpoint]:
    if given:
        if wrong := [text for text in given if not all(text.partition("="))]:
            raise PeerUnavailable(f"an endpoint is written region=host:port; {wrong[0]!r} is not")
        found = [Endpoint(*text.partition("=")[::2]) for text in given]
    else:
        found = [Endpoint(e.region, e.address) for e in load_cluster(directory).endpoints]
    regions = sorted({e.region for e in found})
    if region and region not in regions:
        raise PeerUnavailable(f"there is no region {region!r}; there are: {', '.join(regions)}")
    return sorted(found, key=lambda e: e.region != region)


async def run_chat(directory: Path, name: str, region: str, given: list[str], password: str) -> int:
    """Chat until /quit or the end of input."""
    handle = normalize_handle(name)
    endpoints = _endpoints(directory, region, given)
    password = password or await asyncio.to_thread(getpass.getpass, f"password of {handle}: ")
    token = await _enter(endpoints, handle, password)
    async with Client(endpoints, region=region or endpoints[0].region, access_token=token) as client:
        chat = Chat(client, handle)
        print("-- /help tells what can be typed", flush=True)
        listening = asyncio.create_task(chat.listen())
        try:
            while line := await asyncio.to_thread(sys.stdin.readline):
                try:
                    if not await chat.line(line.rstrip("\n")):
                        break
                except EvertalkError as error:
                    print(f"-- {error}")
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
    if client.unsent:  # closing has tried, for a moment
        print(f"-- {client.unsent} of your messages could not be sent and are given up")
    return 0
