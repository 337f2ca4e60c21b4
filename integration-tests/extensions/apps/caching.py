"""Flask-Caching: pages and results kept in memory; each says how often it was made."""

import asyncio
from collections import Counter

from flask import Flask
from flask_caching import Cache

app = Flask(__name__)
app.config["CACHE_TYPE"] = "SimpleCache"
cache = Cache(app)
made = Counter()


def make(name):
    made[name] += 1
    return f"{name} {made[name]}"


@app.get("/synchronous/<name>")
@cache.cached()
def synchronous(name):
    return make(name)


@app.get("/coroutine/<name>")
@cache.cached()
async def coroutine(name):
    await asyncio.sleep(0.01)
    return make(name)


@app.get("/stream/<name>")
@cache.cached()
async def stream(name):
    for _ in range(2):
        yield f"{make(name)}\n"
        await asyncio.sleep(0.01)


@cache.memoize()
def square(number):
    return make(f"{number * number}")


@app.get("/memoized/<int:number>")
async def memoized(number):
    await asyncio.sleep(0.01)
    return square(number)


@cache.memoize()
async def cube(number):
    await asyncio.sleep(0.01)
    return make(f"{number**3}")


@app.get("/memoized-coroutine/<int:number>")
async def memoized_coroutine(number):
    await asyncio.sleep(0.01)
    return cube(number)  # No await: Flask-Caching has awaited it.
