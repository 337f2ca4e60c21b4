"""Flask-Mail, with a real SMTP server."""

from uuid import uuid4

import pytest

EXTENSION = "Flask-Mail"
APP = "mail"


@pytest.fixture(scope="module")
def environment(smtp):
    return {"FLASK_MAIL_SERVER": smtp.hostname, "FLASK_MAIL_PORT": str(smtp.port)}


@pytest.mark.covers("synchronous view", "coroutine view")
@pytest.mark.parametrize("path", ["synchronous", "coroutine"])
async def test_a_message_arrives(client, smtp, path):
    subject = uuid4().hex
    assert (await client.post(f"/{path}/{subject}")).text == "sent"
    (message,) = smtp.messages(subject)
    assert message["To"] == "ada@notes.example"
    assert message["From"] == "app@notes.example"
    assert message.get_payload().strip() == "Milk"


@pytest.mark.covers("WebSocket")
async def test_a_socket_sends_a_message(client, smtp):
    subject = uuid4().hex
    assert await client.talk("/socket", subject) == ["sent"]
    assert len(smtp.messages(subject)) == 1
