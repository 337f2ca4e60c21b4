"""What a thing would cost to buy or to rent: several shops asked at once, by coroutines."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from urllib.parse import quote

import httpx
from flask import Blueprint, current_app, render_template
from flask.typing import ResponseReturnValue
from flask_login import login_required

from .api import token_required
from .catalogue import find
from .extensions import db

bp = Blueprint("prices", __name__)

#: Made once: it reads some hundred certificates.
_TLS = httpx.create_ssl_context()


@dataclass
class Offer:
    """What a shop says, or that it says nothing."""

    shop: str
    price: float | None


async def offers(name: str) -> list[Offer]:
    """Ask all shops at the same time what a thing costs."""
    shops: dict[str, str] = current_app.config["PRICE_SHOPS"]
    timeout = current_app.config["PRICE_TIMEOUT"]
    async with httpx.AsyncClient(verify=_TLS, timeout=timeout) as client:
        asked = (offer(client, shop, address, name) for shop, address in shops.items())
        return await asyncio.gather(*asked)


async def offer(client: httpx.AsyncClient, shop: str, address: str, name: str) -> Offer:
    try:
        response = await client.get(address.replace("{name}", quote(name, safe="")))
        response.raise_for_status()
        return Offer(shop, float(response.json()["price"]))
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        current_app.logger.warning("%s gave no price: %r", shop, error)
        return Offer(shop, None)


async def offers_for(number: int) -> tuple[str, list[Offer]]:
    """Return the name of a thing, and the offers for it."""
    name = find(number).name
    db.session.commit()  # Give the connection back: the shops may take their time.
    return name, await offers(name)


@bp.get("/things/<thing:number>/prices")
@login_required
async def page(number: int) -> ResponseReturnValue:
    _, found = await offers_for(number)
    return render_template("prices.html", thing=find(number), offers=found)


@bp.get("/api/v1/things/<int(max=999999999):number>/prices")
@token_required
async def as_json(number: int) -> ResponseReturnValue:
    name, found = await offers_for(number)
    return {"name": name, "prices": {one.shop: one.price for one in found}}
