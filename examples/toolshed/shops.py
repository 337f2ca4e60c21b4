"""Two slow shops for Toolshed to ask: ``flask --app shops run --port 5001``."""

import time
import zlib

from flask import Flask

app = Flask(__name__)


@app.get("/buy/<name>")
def buy(name: str) -> dict[str, float]:
    time.sleep(0.6)
    return {"price": 20 + zlib.crc32(name.encode()) % 20000 / 100}


@app.get("/rent/<name>")
def rent(name: str) -> dict[str, float]:
    time.sleep(0.8)
    return {"price": 5 + zlib.crc32(name.encode()) % 2500 / 100}
