"""The client SDK: `async with Client(endpoints, handle=…, password=…) as chat`."""

from evertalk.client.accounts import Registered, SignedIn, register, sign_in
from evertalk.client.client import Client
from evertalk.client.endpoints import Endpoint
from evertalk.client.notices import (
    Connected,
    Created,
    Disconnected,
    Gap,
    Happening,
    Notice,
    Page,
    Person,
    Sent,
    Watch,
    What,
)
from evertalk.client.posted import Posted

__all__ = [
    "Client",
    "Connected",
    "Created",
    "Disconnected",
    "Endpoint",
    "Gap",
    "Happening",
    "Notice",
    "Page",
    "Person",
    "Posted",
    "Registered",
    "Sent",
    "SignedIn",
    "Watch",
    "What",
    "register",
    "sign_in",
]
