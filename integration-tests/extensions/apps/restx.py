"""Flask-RESTX: resources whose methods are synchronous, or coroutine functions."""

import asyncio

from flask import Flask
from flask_restx import Api, Resource, fields

from flask_aio_core import AioHTTP

app = Flask(__name__)
AioHTTP(app)
api = Api(app)
note = api.model("Note", {"text": fields.String(required=True)})


@api.route("/synchronous")
class Synchronous(Resource):
    @api.marshal_with(note)
    def get(self):
        return {"text": "milk", "secret": "not in the model"}


@api.route("/coroutine/<text>")
class Coroutine(Resource):
    async def get(self, text):
        await asyncio.sleep(0.01)
        return {"text": text}

    @api.expect(note, validate=True)
    async def post(self, text):
        await asyncio.sleep(0.01)
        return {"text": text, **api.payload}, 201, {"X-Made": "yes"}

    async def delete(self, text):
        await asyncio.sleep(0.01)
        api.abort(409, "in use")


@api.route("/marshalled")
class Marshalled(Resource):
    @api.marshal_with(note)
    @app.ensure_sync
    async def get(self):
        """What marshal_with decorates has to return the data itself."""
        await asyncio.sleep(0.01)
        return {"text": "milk", "secret": "not in the model"}
