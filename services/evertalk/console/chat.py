"""`evertalk chat`: a plain line-based chat, for two terminals and a demonstration."""

from __future__ import annotations

import asyncio
import getpass
import signal
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from evertalk.client import Client, Connected, Disconnected, Endpoint, Gap, Page, register, sign_in
from evertalk.console.endpoints import find_endpoints, prefer
from evertalk.console.lines import Lines
from evertalk.console.signals import when_asked_to_stop
from evertalk.core import limits
from evertalk.core.clock import ms_of
from evertalk.core.errors import Code, EvertalkError, Refused
from evertalk.core.ids import normalize_handle
from evertalk.core.merge import Digest, slot_of
from evertalk.core.model import Applied, Conversation, Deletion, Edit, Kind, Message, Reaction

_HELP = """\
/to HANDLE          talk with somebody
/group TITLE: A, B  start a group
/list               your conversations; /open N goes to one
/history            the last messages here
/digest             a fingerprint of all of this conversation: the same in every region, once they are equal
/help, /quit"""


_SIGN_IN_S = 5.0


class NoPassword(EvertalkError):
    """There is nobody to ask for a password."""


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
            case "/digest":
                await self._digest()
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
        edits = [e.event.body for e in page.registers if isinstance(e.event.body, Edit)]
        newest = {(e.target.sender, e.target.id): e.text for e in edits}
        for one in page.messages:
            event = one.event
            if isinstance(event.body, Message):
                edited = newest.get((event.sender, event.id))
                text = event.body.text if edited is None else f"{edited} (edited)"
                at = datetime.fromtimestamp(ms_of(event.hlc) / 1000).astimezone()
                print(f"  {at:%H:%M:%S} {await self.name(event.sender)}: {text}")
        _say_gap(page.gap)

    async def _digest(self) -> None:
        """What two people in two regions compare: it covers all messages in order, edits and reactions."""
        if self._here is None:
            print("nobody to talk to yet: /to HANDLE")
            return
        pages: list[Page] = []
        before: tuple[int, bytes] | None = None
        while not pages or before is not None:
            pages.append(await self._client.history(self._here, before=before, limit=limits.HISTORY_PAGE_MAX))
            before = pages[-1].next
        digest = digest_of(pages)
        print(f"digest {digest.hexdigest()[:12]} of {digest.messages} messages", flush=True)
        _say_gap(any(page.gap for page in pages))


def digest_of(pages: Sequence[Page]) -> Digest:
    """Of a whole conversation.

    Args:
        pages: as they come, the newest first.
    """
    digest = Digest()
    for page in reversed(pages):
        for one in page.messages:
            digest.message(one.event)
    hanging = [one.event for page in pages for one in page.registers if one.event.kind in (Kind.EDIT, Kind.REACTION)]
    for event in sorted(hanging, key=lambda e: (e.kind, slot_of(e))):
        digest.register(event)
    return digest


def _say_gap(gap: bool) -> None:
    if gap:
        print("-- not everything is reachable yet")


async def _enter(endpoints: list[Endpoint], handle: str, password: str) -> str:
    """Sign in, or else register."""
    try:
        return (await sign_in(endpoints, handle, password, timeout=_SIGN_IN_S)).token
    except Refused as refused:
        if refused.code is Code.NOT_YET:  # a region is away, and newcomers must be able to come all the same
            print(f"-- no region that can be reached knows {handle!r}; should another one, the older account keeps it")
        elif refused.code is not Code.UNKNOWN_ACCOUNT:
            raise
    made = await register(endpoints, handle, password)
    print(f"-- new account {handle!r} ({made.durability.name.lower()})")
    return made.token


async def _talk(chat: Chat, lines: Lines) -> None:
    while (line := await lines.next()) is not None:
        try:
            if not await chat.line(line):
                return
        except EvertalkError as error:
            print(f"-- {error}", flush=True)


def _ask_password(handle: str) -> str:
    if not sys.stdin.isatty():
        raise NoPassword("there is no terminal to ask for the password: set EVERTALK_PASSWORD")
    # Nothing else runs yet, so the loop may stand still; and Ctrl-C need not wait for the Enter key.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return getpass.getpass(f"password of {handle}: ")
    finally:
        signal.signal(signal.SIGINT, before)


async def run_chat(
    given: Sequence[str], directory: Path | None, default: Path, name: str, region: str, password: str
) -> int:
    """Chat until /quit, the end of input, Ctrl-C or SIGTERM; 0 only if everything was sent.

    Args:
        given, directory, default: as `find_endpoints`.
    """
    handle = normalize_handle(name)
    endpoints = prefer(find_endpoints(given, directory, default), region)
    token = await _enter(endpoints, handle, password or _ask_password(handle))
    async with Client(endpoints, region=endpoints[0].region, access_token=token) as client:
        chat = Chat(client, handle)
        print("-- /help tells what can be typed", flush=True)
        listening = asyncio.create_task(chat.listen())
        talking = asyncio.create_task(_talk(chat, Lines(sys.stdin.fileno())))
        with when_asked_to_stop(talking.cancel):
            try:
                await asyncio.wait((talking, listening), return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (talking, listening):
                    task.cancel()
                ended = await asyncio.gather(talking, listening, return_exceptions=True)
    for outcome in ended:
        if isinstance(outcome, Exception):
            raise outcome
    if client.unsent:  # closing has tried, for a moment
        print(f"-- {client.unsent} of your messages could not be sent and are given up")
        return 1
    return 0
