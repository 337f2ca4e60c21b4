"""flask-smorest: arguments and response schemas of functions and of a MethodView."""

import asyncio

from flask import Flask
from flask.views import MethodView
from flask_smorest import Api, Blueprint
from marshmallow import Schema, fields

app = Flask(__name__)
app.config.update(API_TITLE="Notes", API_VERSION="1", OPENAPI_VERSION="3.0.3")
app.config.update(OPENAPI_URL_PREFIX="/", OPENAPI_JSON_PATH="openapi.json")
api = Api(app)
blueprint = Blueprint("notes", __name__)


class NoteSchema(Schema):
    text = fields.String(required=True)


@blueprint.route("/synchronous", methods=["POST"])
@blueprint.arguments(NoteSchema)
@blueprint.response(201, NoteSchema)
def synchronous(note):
    return {**note, "secret": "not in the schema"}


@blueprint.route("/coroutine", methods=["POST"])
@blueprint.arguments(NoteSchema)
@blueprint.response(201, NoteSchema)
async def coroutine(note):
    await asyncio.sleep(0.01)
    return {**note, "secret": "not in the schema"}


@blueprint.route("/method")
class Notes(MethodView):
    @blueprint.arguments(NoteSchema)
    @blueprint.response(201, NoteSchema)
    async def post(self, note):
        await asyncio.sleep(0.01)
        return {**note, "secret": "not in the schema"}


@blueprint.route("/pages", methods=["GET"])
@blueprint.response(200, NoteSchema(many=True))
@blueprint.paginate()
async def pages(pagination_parameters):
    await asyncio.sleep(0.01)
    pagination_parameters.item_count = 25
    first = pagination_parameters.first_item
    return [{"text": str(first + number)} for number in range(pagination_parameters.page_size)]


api.register_blueprint(blueprint)
