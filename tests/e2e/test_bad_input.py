"""Bad input: each is refused by name, and the same process serves on."""

from __future__ import annotations

import base64
import json
import unicodedata
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from evertalk.adapters.clock import SystemIds
from evertalk.adapters.tokens import CLUSTER, USER, Keyring, make_keys
from evertalk.client import Client, Endpoint, sign_in
from evertalk.cluster.child import Child
from evertalk.core import limits
from evertalk.core.clock import pack
from evertalk.core.errors import Code, PeerUnavailable, Refused, SendFailed
from evertalk.core.ids import direct_scope
from evertalk.core.model import (
    Account,
    Conversation,
    ConversationKind,
    Edit,
    Event,
    Kind,
    Membership,
    Message,
    Role,
    Target,
    Title,
)
from evertalk.v1 import accounts_pb2, chat_pb2, cluster_pb2
from tests.e2e.raw import Door, RawSession, now_ms, refusal_of
from tests.e2e.world import PASSWORD, Friend, World, world

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

CHAT, ACCOUNTS, NODES = "evertalk.v1.ChatService", "evertalk.v1.AccountService", "evertalk.v1.ClusterService"
ids = SystemIds()


@dataclass
class Scene:
    """One cluster; anna and bert talk, carl is a stranger to them. Everything happens at one node."""

    w: World
    node: Child
    door: Door
    anna: Friend
    bert: Friend
    carl: bytes
    carls_token: str
    talk: bytes

    async def call(self, method: str, request: Any, token: str = "") -> Any:
        return await self.w.call(self.node.spec.address, method, request, token)

    async def refusal(self, method: str, request: Any, token: str = "") -> Refused:
        """How a call is definitely refused."""
        return await refusal_of(lambda: self.call(method, request, token))

    def mint(self, account: bytes, scope: str = USER, life_s: float = 60, keys: Path | None = None) -> str:
        """A token as the region issues it, or with `keys` as somebody else would."""
        ring = Keyring(keys or Path(self.w.cluster.file.keys["seoul"]), "seoul")
        return ring.mint(account.hex(), scope, now_ms(), life_s)[0]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        w = await stack.enter_async_context(world(tmp_path_factory.mktemp("cluster"), nodes_per_region=1))
        anna, bert = [await stack.enter_async_context(w.friend(name, "seoul")) for name in ("anna", "bert")]
        carl, token = await w.join("carl", "seoul")
        node = w.cluster.node("seoul-1")
        talk = await anna.client.direct(bert.account)
        yield Scene(w, node, Door(w.transport, node.spec.address), anna, bert, carl, token, talk.id)


@pytest_asyncio.fixture(loop_scope="module")
async def scene(shared: Scene, request: pytest.FixtureRequest) -> AsyncIterator[Scene]:
    """Whatever a test does: afterwards the same process takes a good message from another session."""
    pid = shared.node.pid
    said = len(shared.node.spec.log.read_text())
    yield shared
    after = f"after {request.node.name}"
    async with shared.door.session(shared.bert.access, shared.bert.account) as bert:
        await bert.accepted(bert.message(shared.talk, after))
    await shared.bert.sees(after)  # else it is handed out amid the next test
    assert shared.node.pid == pid
    assert not shared.w.cluster.fallen
    assert "Traceback" not in shared.node.spec.log.read_text()[said:]


def clear(refused: Refused, code: Code) -> None:
    """Refused by that name, with a sentence for a person."""
    assert refused.code is code, f"{refused.code.name}: {refused.sentence}"
    assert len(refused.sentence.split()) >= 3
    assert len(refused.sentence) < 400


# ---------------------------------------------------------------- events

Make = Callable[[RawSession, Scene], Event | bytes]
EVENTS: dict[str, tuple[Make, Code]] = {
    "junk": (lambda me, s: b"\xff\xff\xff\xff", Code.MALFORMED),
    "nothing": (lambda me, s: b"", Code.MALFORMED),
    "half an event": (lambda me, s: me.message(s.talk, "hello").raw[:-3], Code.MALFORMED),
    "an id of 3 bytes": (lambda me, s: me.message(s.talk, "hello", id=b"abc"), Code.MALFORMED),
    "no text": (lambda me, s: me.message(s.talk, ""), Code.MALFORMED),
    "a text of 16 KiB and a byte": (lambda me, s: me.message(s.talk, "x" * (16 * 1024 + 1)), Code.TOO_LARGE),
    "a text of 2 MiB": (lambda me, s: me.message(s.talk, "x" * 2 * 1024 * 1024), Code.TOO_LARGE),
    "bert's name on it": (lambda me, s: me.message(s.talk, "I am bert", sender=s.bert.account), Code.NOT_ALLOWED),
    "2 minutes ahead": (lambda me, s: me.message(s.talk, "hello", hlc=pack(now_ms() + 120_000)), Code.STAMP_AHEAD),
    "40 days old": (
        lambda me, s: me.message(s.talk, "hello", hlc=pack(now_ms() - 40 * 86_400_000)), Code.STAMP_TOO_OLD,
    ),
    "a stamp of nothing": (lambda me, s: me.message(s.talk, "hello", hlc=0), Code.MALFORMED),
    "a stamp of 64 bits": (lambda me, s: me.message(s.talk, "hello", hlc=(1 << 64) - 1), Code.MALFORMED),
    "a third to a direct talk": (
        lambda me, s: me.event(s.talk, Membership(s.carl, Role.MEMBER), Kind.MEMBERSHIP, version=1), Code.NOT_ALLOWED,
    ),
    "a title for a direct talk": (
        lambda me, s: me.event(s.talk, Title("us"), Kind.TITLE, version=1), Code.NOT_ALLOWED,
    ),
    "bert's words changed": (
        lambda me, s: me.event(s.talk, Edit(Target(s.bert.account, b"m" * 16), "no"), Kind.EDIT, version=1),
        Code.NOT_ALLOWED,
    ),
    "an account": (
        lambda me, s: me.event(me.account, Account("root", "Root", "$argon2id$"), Kind.ACCOUNT), Code.NOT_ALLOWED,
    ),
    "a group without oneself": (
        lambda me, s: me.event(ids.uuid7(), Conversation(ConversationKind.GROUP, "", (s.carl,)), Kind.CONVERSATION),
        Code.MALFORMED,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "code"), EVENTS.values(), ids=EVENTS)
async def test_a_bad_event_is_refused_and_the_next_epoch_of_the_stream_is_taken(
    scene: Scene, make: Make, code: Code
) -> None:
    async with scene.door.session(scene.anna.access, scene.anna.account) as anna:
        clear(await anna.refused(make(anna, scene), anna.message(scene.talk, "dropped with it")), code)
        await anna.accepted(anna.message(scene.talk, "taken"))


async def test_a_stranger_cannot_speak_in_a_talk_nor_read_it(scene: Scene) -> None:
    async with Client([Endpoint("seoul", scene.door.address)], access_token=scene.carls_token) as carl:
        with pytest.raises(SendFailed) as spoken:
            await carl.send(scene.talk, "may I?")
        clear(spoken.value, Code.NOT_A_MEMBER)
        with pytest.raises(Refused) as read:
            await carl.history(scene.talk)
        clear(read.value, Code.NOT_A_MEMBER)


async def test_what_does_not_exist_is_said_not_to(scene: Scene) -> None:
    async with Client([Endpoint("seoul", scene.door.address)], access_token=scene.carls_token) as carl:
        with pytest.raises(SendFailed) as spoken:
            await carl.send(ids.uuid7(), "hello?")
        clear(spoken.value, Code.UNKNOWN_CONVERSATION)
        with pytest.raises(Refused) as read:
            await carl.history(ids.uuid7())
        clear(read.value, Code.UNKNOWN_CONVERSATION)
        with pytest.raises(SendFailed) as made:
            await carl.direct(ids.uuid7())
        clear(made.value, Code.UNKNOWN_ACCOUNT)


async def test_a_stranger_cannot_take_over_the_talk_of_two(scene: Scene) -> None:
    """A direct talk's id is no secret: it is the hash of two account ids. An older stamp would win the slot."""
    _, token = await scene.w.join("emma", "seoul")
    async with Client([Endpoint("seoul", scene.door.address)], access_token=token) as hers:
        talk = (await hers.direct(scene.anna.account)).id
        await hers.send(talk, "between us")
    async with scene.door.session(scene.carls_token, scene.carl) as carl:
        mine = Conversation(ConversationKind.GROUP, "mine", (scene.carl,))
        await carl.say(carl.event(talk, mine, Kind.CONVERSATION, hlc=pack(now_ms() - 86_400_000)))
        await carl.until(lambda f: f.HasField("refusal") or bool(f.acks.seqs))
    page = chat_pb2.HistoryRequest(conversation=talk)
    assert len((await scene.call(f"{CHAT}/History", page, scene.anna.access)).messages) == 1
    clear(await scene.refusal(f"{CHAT}/History", page, scene.carls_token), Code.NOT_A_MEMBER)


async def test_a_stranger_cannot_make_a_group_where_two_will_talk(scene: Scene) -> None:
    dora, token = await scene.w.join("dora", "seoul")
    where = direct_scope(scene.anna.account, dora)
    mine = Conversation(ConversationKind.GROUP, "mine", (scene.carl, scene.anna.account, dora))
    async with scene.door.session(scene.carls_token, scene.carl) as carl:
        await carl.say(carl.event(where, mine, Kind.CONVERSATION))
        await carl.until(lambda f: f.HasField("refusal") or bool(f.acks.seqs))
    async with Client([Endpoint("seoul", scene.door.address)], access_token=token) as hers:
        assert (await hers.direct(scene.anna.account)).id == where
        await hers.send(where, "between us")
    page = chat_pb2.HistoryRequest(conversation=where)
    clear(await scene.refusal(f"{CHAT}/History", page, scene.carls_token), Code.NOT_A_MEMBER)


async def test_a_bad_event_among_good_ones_fails_alone_and_the_good_ones_arrive_in_order(scene: Scene) -> None:
    here = Endpoint("seoul", scene.door.address)
    async with Client([here], access_token=scene.anna.access) as anna:
        good = [await anna.post(scene.talk, f"good {n}") for n in range(4)]
        not_hers = await anna.post_delete(scene.talk, Target(scene.bert.account, b"m" * 16))
        good += [await anna.post(scene.talk, f"good {n}") for n in range(4, 7)]
        nowhere = await anna.post(ids.uuid7(), "to nobody")
        good += [await anna.post(scene.talk, f"good {n}") for n in range(7, 10)]
        with pytest.raises(SendFailed) as failed:
            await not_hers.accepted
        clear(failed.value, Code.NOT_ALLOWED)
        with pytest.raises(SendFailed) as lost:
            await nowhere.accepted
        clear(lost.value, Code.UNKNOWN_CONVERSATION)
        for posted in good:
            await posted.accepted
    await scene.bert.sees("good 9")
    assert [t for t in scene.bert.texts() if t.startswith("good ")] == [f"good {n}" for n in range(10)]


# ---------------------------------------------------------------- frames

FIRST_FRAMES = {
    "junk": b"\xff\xff\xff\xff",
    "a heartbeat": chat_pb2.SessionRequest(heartbeat=chat_pb2.Heartbeat()),
    "sends": chat_pb2.SessionRequest(sends=chat_pb2.Sends(epoch=1, first_seq=1, events=[b"x"])),
    "a hello without a session": chat_pb2.SessionRequest(hello=chat_pb2.Hello(fresh=True)),
    "a hello with a long session": chat_pb2.SessionRequest(hello=chat_pb2.Hello(session=b"s" * 9, fresh=True)),
}


@pytest.mark.parametrize("first", FIRST_FRAMES.values(), ids=FIRST_FRAMES)
async def test_a_stream_that_does_not_begin_with_a_hello_is_ended_by_name(
    scene: Scene, first: bytes | chat_pb2.SessionRequest
) -> None:
    async with scene.door.stream(scene.anna.access) as stream:
        await stream.write(first)
        clear(await stream.ended(), Code.MALFORMED)


async def test_junk_in_the_middle_of_a_stream_ends_it_by_name(scene: Scene) -> None:
    async with scene.door.session(scene.anna.access, scene.anna.account) as stream:
        await stream.write(b"\xff\xff\xff\xff")
        clear(await stream.ended(), Code.MALFORMED)


async def test_junk_in_a_call_is_refused_by_name(scene: Scene) -> None:
    class Junk:
        def SerializeToString(self) -> bytes:
            return b"\xff\xff\xff\xff"

    clear(await scene.refusal(f"{CHAT}/History", Junk(), scene.anna.access), Code.MALFORMED)


async def test_a_frame_of_5_mib_ends_the_stream_and_nothing_else(scene: Scene) -> None:
    """gRPC's own limit speaks, before any code of ours."""
    async with scene.door.session(scene.anna.access, scene.anna.account) as stream:
        await stream.write(b"\x12" + b"x" * 5 * 1024 * 1024)
        with pytest.raises(PeerUnavailable):
            await stream.ended()


async def test_a_hello_with_a_vector_from_nowhere_is_served(scene: Scene) -> None:
    wild = {"origins": [{"origin": "nowhere-" + "0" * 26, "positions": [(1 << 64) - 1] * 8, "holes": [{"last": 9}]}]}
    hello = chat_pb2.SessionRequest(hello=chat_pb2.Hello(session=ids.token(8), have=wild, awaiting=wild))  # type: ignore[arg-type]
    async with scene.door.stream(scene.anna.access, scene.anna.account) as stream:
        await stream.write(hello)
        await stream.read()
        await stream.accepted(stream.message(scene.talk, "I have been nowhere"))


# ---------------------------------------------------------------- tokens


def _jwt(header: dict[str, str], claims: dict[str, Any]) -> str:
    parts = (base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=").decode() for p in (header, claims))
    return ".".join(parts) + "."


@pytest.mark.parametrize(
    "kind", ["none", "junk", "expired", "of another's key", "unsigned", "of a node", "with an odd header"]
)
async def test_a_bad_token_is_refused_in_calls_and_sessions(scene: Scene, tmp_path: Path, kind: str) -> None:
    make_keys(tmp_path, ["seoul"])
    anna = scene.anna.account
    claims = {"sub": anna.hex(), "scope": USER, "iss": "seoul", "iat": 1, "exp": now_ms() // 1000 + 60}
    token = {
        "none": "",
        "junk": "not.a.token",
        "expired": scene.mint(anna, life_s=-1),
        "of another's key": scene.mint(anna, keys=tmp_path),
        "unsigned": _jwt({"alg": "none", "kid": "seoul"}, claims),
        "of a node": scene.mint(anna, CLUSTER),
        "with an odd header": "W10.e30.AAAA",
    }[kind]
    for method, request in [
        (f"{CHAT}/ListConversations", chat_pb2.ListConversationsRequest()),
        (f"{CHAT}/History", chat_pb2.HistoryRequest(conversation=scene.talk)),
        (f"{ACCOUNTS}/Refresh", accounts_pb2.RefreshRequest()),
        (f"{ACCOUNTS}/LookUp", accounts_pb2.LookUpRequest(handles=["anna"])),
    ]:
        clear(await scene.refusal(method, request, token), Code.BAD_TOKEN)
    async with scene.door.stream(token) as stream:
        await stream.write(chat_pb2.SessionRequest(hello=chat_pb2.Hello(session=b"s" * 8, fresh=True)))
        clear(await stream.ended(), Code.BAD_TOKEN)


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("Status", cluster_pb2.StatusRequest()),
        ("Export", cluster_pb2.ExportRequest(limit=10)),
        ("Digests", cluster_pb2.DigestsRequest()),
    ],
    ids=["Status", "Export", "Digests"],
)
async def test_a_persons_token_opens_nothing_of_the_cluster(scene: Scene, method: str, request_: Any) -> None:
    clear(await scene.refusal(f"{NODES}/{method}", request_, scene.anna.access), Code.BAD_TOKEN)
    await scene.call(f"{NODES}/{method}", request_, scene.mint(b"operator", CLUSTER))


async def test_a_client_with_a_bad_token_is_told_so_at_once(scene: Scene) -> None:
    client = Client([Endpoint("seoul", scene.door.address)], access_token=scene.mint(scene.carl, life_s=-1))
    with pytest.raises(Refused) as refused:
        async with client:
            pass
    clear(refused.value, Code.BAD_TOKEN)


# ---------------------------------------------------------------- accounts


async def test_a_wrong_password_and_a_strange_handle_are_told_apart(scene: Scene) -> None:
    here = [Endpoint("seoul", scene.door.address)]
    clear(await refusal_of(lambda: sign_in(here, "anna", "wrong horse")), Code.BAD_PASSWORD)
    clear(await refusal_of(lambda: sign_in(here, "nobody", PASSWORD)), Code.UNKNOWN_ACCOUNT)
    assert (await sign_in(here, " @ANNA ", PASSWORD)).account == scene.anna.account


def registration(handle: str, password: str = PASSWORD, name: str = "", secret: bytes = b"") -> Any:
    return accounts_pb2.RegisterRequest(
        handle=handle, password=password, display_name=name, secret=secret or ids.token(limits.SECRET_BYTES),
        account_event=ids.uuid7(), claim_event=ids.uuid7(),
    )  # fmt: skip


REGISTRATIONS = {
    "a taken handle": (registration("anna"), Code.HANDLE_TAKEN),
    "a taken handle in capitals": (registration(" @AnnA"), Code.HANDLE_TAKEN),
    "no handle": (registration(""), Code.MALFORMED),
    "a handle of one letter": (registration("a"), Code.MALFORMED),
    "a handle of 33 letters": (registration("a" * 33), Code.MALFORMED),
    "a handle of a megabyte": (registration("a" * 1024 * 1024), Code.MALFORMED),
    "a handle with a space": (registration("an na"), Code.MALFORMED),
    "a suffixed handle": (registration("anna~0123ab"), Code.MALFORMED),
    "a short password": (registration("newone", "1234567"), Code.MALFORMED),
    "a password of a megabyte": (registration("newone", "x" * 1024 * 1024), Code.MALFORMED),
    "a name of 300 letters": (registration("newone", name="x" * 300), Code.MALFORMED),
    "a secret of 3 bytes": (registration("newone", secret=b"abc"), Code.MALFORMED),
}


@pytest.mark.parametrize(("request_", "code"), REGISTRATIONS.values(), ids=REGISTRATIONS)
async def test_a_bad_registration_is_refused(scene: Scene, request_: accounts_pb2.RegisterRequest, code: Code) -> None:
    clear(await scene.refusal(f"{ACCOUNTS}/Register", request_), code)


async def test_nobody_gets_into_anothers_account_by_registering_it_again(scene: Scene) -> None:
    """Account ids are no secret, every member of a conversation sees them: an id must not be asked for."""
    secret = ids.token(limits.SECRET_BYTES)
    hers = await scene.call(f"{ACCOUNTS}/Register", registration("olga", secret=secret))
    assert "account" not in accounts_pb2.RegisterRequest.DESCRIPTOR.fields_by_name
    again = await scene.call(f"{ACCOUNTS}/Register", registration("olga", secret=secret))
    assert again.account == hers.account
    for guess in (hers.account, hers.account * 2):
        request = registration("mallory", secret=guess)
        if len(guess) == limits.SECRET_BYTES:
            assert (await scene.call(f"{ACCOUNTS}/Register", request)).account != hers.account
        else:
            clear(await scene.refusal(f"{ACCOUNTS}/Register", request), Code.MALFORMED)
    stolen = registration("olga", "another password", secret=secret)
    clear(await scene.refusal(f"{ACCOUNTS}/Register", stolen), Code.BAD_PASSWORD)


async def test_a_handle_signs_in_however_its_letters_are_composed(scene: Scene) -> None:
    """Some systems type 한글 as its single letters; it is one handle."""
    made = await scene.call(f"{ACCOUNTS}/Register", registration(unicodedata.normalize("NFD", "한글")))
    for form in ("NFC", "NFD"):
        request = accounts_pb2.SignInRequest(handle=unicodedata.normalize(form, "한글"), password=PASSWORD)
        assert (await scene.call(f"{ACCOUNTS}/SignIn", request)).account == made.account
        look = accounts_pb2.LookUpRequest(handles=[request.handle])
        found = await scene.call(f"{ACCOUNTS}/LookUp", look, scene.anna.access)
        assert [view.account for view in found.accounts] == [made.account]


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize("id_", [b"", b"abc", b"x" * 20_000], ids=["empty", "3 bytes", "20 KB"])
async def test_a_conversation_that_cannot_be_is_refused_by_name(scene: Scene, id_: bytes) -> None:
    request = chat_pb2.HistoryRequest(conversation=id_)
    refused = await scene.refusal(f"{CHAT}/History", request, scene.anna.access)
    clear(refused, Code.MALFORMED if refused.code is Code.MALFORMED else Code.UNKNOWN_CONVERSATION)


async def test_a_page_from_beyond_all_bounds_is_just_a_page(scene: Scene) -> None:
    top = (1 << 64) - 1
    request = chat_pb2.HistoryRequest(
        conversation=scene.talk, limit=(1 << 32) - 1, before=chat_pb2.Cursor(hlc=top, id=b"\xff" * 99)
    )
    page = await scene.call(f"{CHAT}/History", request, scene.anna.access)
    assert 0 < len(page.messages) <= limits.HISTORY_PAGE_MAX
    far = {"origins": [{"origin": "nowhere", "positions": [top]}]}
    request = chat_pb2.HistoryRequest(conversation=scene.talk, need=far)  # type: ignore[arg-type]
    assert (await scene.call(f"{CHAT}/History", request, scene.anna.access)).gap


async def test_too_many_names_in_one_call_are_refused(scene: Scene) -> None:
    request = accounts_pb2.LookUpRequest(accounts=[b"x"] * (limits.MAX_MEMBERS + 1))
    clear(await scene.refusal(f"{ACCOUNTS}/LookUp", request, scene.anna.access), Code.TOO_LARGE)


# ---------------------------------------------------------------- a reader that stalls (P8)

TEXT = "x" * 16_000
MANY = 400  # 6 MiB: more than the session's queue and all buffers on the way


async def test_a_reader_that_stalls_is_cut_by_name_costs_little_and_misses_nothing(scene: Scene) -> None:
    pid = scene.node.pid
    assert pid is not None
    bert = scene.bert
    async with scene.door.session(bert.access, bert.account) as stalled:
        before = scene.w.cluster.rss()[scene.node.name] or 0
        most = before
        async with scene.door.session(scene.anna.access, scene.anna.account) as anna:
            for n in range(0, MANY, 20):
                await anna.accepted(*(anna.message(scene.talk, f"{i} {TEXT}") for i in range(n, n + 20)))
                most = max(most, scene.w.cluster.rss()[scene.node.name] or 0)
        await bert.sees(f"{MANY - 1} {TEXT}")  # who reads gets all of it meanwhile
        clear(await stalled.ended(), Code.SLOW_READER)
    assert most - before < 64 * 1024 * 1024

    had = stalled.have.copy()
    assert 0 < len(stalled.shown) < MANY
    async with scene.door.session(bert.access, bert.account, stalled.session, stalled.have) as again:
        while len({a.event.id for a in stalled.shown + again.shown}) < MANY:
            await again.read()
        await again.accepted(again.message(scene.talk, "I have read it all"))
    both = stalled.shown + again.shown
    once = {a.event.id: a for a in both if isinstance(a.event.body, Message)}
    ordered = sorted(once.values(), key=lambda a: a.event.key)
    assert [a.event.body.text.split()[0] for a in ordered] == [str(n) for n in range(MANY)]  # type: ignore[union-attr]
    assert [a.event.id for a in again.shown] == list(dict.fromkeys(a.event.id for a in again.shown))
    assert not [a for a in again.shown if had[(a.origin, a.shard)] >= a.position], "what `have` covered came again"
