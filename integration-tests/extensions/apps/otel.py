"""OpenTelemetry's Flask instrumentation; the spans are kept in memory."""

import asyncio

from flask import Flask
from opentelemetry import trace
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from flask_aio_ws import websocket, ws

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
tracer = trace.get_tracer(__name__)

app = Flask(__name__)
FlaskInstrumentor().instrument_app(app, excluded_urls="spans")


@app.get("/synchronous/<name>")
def synchronous(name):
    with tracer.start_as_current_span(name):
        return "ok"


@app.get("/coroutine/<name>")
async def coroutine(name):
    with tracer.start_as_current_span(name):
        await asyncio.sleep(0.01)
        async with asyncio.TaskGroup() as group:
            group.create_task(work(f"task of {name}"))
        return "ok"


async def work(name):
    with tracer.start_as_current_span(name):
        await asyncio.sleep(0.01)


@app.get("/stream/<name>")
async def stream(name):
    yield "first\n"
    await asyncio.sleep(0.01)
    with tracer.start_as_current_span(name):
        yield "second\n"


@app.get("/error/<name>")
async def error(name):
    await asyncio.sleep(0.01)
    raise ValueError(name)


@app.route("/socket/<name>")
@websocket
async def socket(name):
    async for message in ws:
        with tracer.start_as_current_span(name):
            await ws.send_str(message.data)


@app.get("/spans/<name>")
def spans(name):
    """Return the spans of the traces in which a name occurs."""
    finished = exporter.get_finished_spans()
    names = (name, f"task of {name}")
    paths = [
        f"/{kind}/{name}" for kind in ("synchronous", "coroutine", "stream", "error", "socket")
    ]
    traces = {
        span.context.trace_id
        for span in finished
        if span.name in names or (span.attributes or {}).get("http.target") in paths
    }
    return [
        {
            "id": span.context.span_id,
            "parent": span.parent and span.parent.span_id,
            "trace": span.context.trace_id,
            "name": span.name,
            "status": span.attributes.get("http.status_code"),
        }
        for span in finished
        if span.context.trace_id in traces
    ]
