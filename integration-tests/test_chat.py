"""The demo's chat: what is said over its WebSockets, and its page in two real browsers."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import shutil
import signal
from pathlib import Path

import aiohttp
import pytest
from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "examples" / "demo" / "app.py"
ARTIFACTS = ROOT / "test-artifacts"
CHROMIUM = shutil.which("chromium")
CHROMEDRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)


@pytest.fixture
def demo(start):
    """A demo process."""
    return start(str(DEMO), env={"PORT": "0"})


@pytest.fixture
async def enter(demo):
    """Open a socket to a room under a name, with anything that ``ws_connect`` takes."""
    async with aiohttp.ClientSession() as session, contextlib.AsyncExitStack() as sockets:

        async def enter(name, room="lobby", **options):
            url = f"{demo.url}/chat/{room}/socket"
            connecting = session.ws_connect(url, params={"name": name}, **options)
            return await sockets.enter_async_context(connecting)

        yield enter


async def receive(socket, kind):
    """Return the next message, which is of a kind."""
    message = await socket.receive_json(timeout=60)
    assert message["type"] == kind, message
    return message


async def say(socket, text):
    """Send a message as the page does."""
    await socket.send_json({"type": "message", "text": text})


async def test_people_in_a_room_see_each_other_and_what_is_said(enter):
    """Each gets the other's messages and sees the other come and go."""
    ada = await enter("Ada")
    assert (await receive(ada, "welcome"))["name"] == "Ada"
    assert await receive(ada, "presence") == {
        "type": "presence",
        "online": ["Ada"],
        "joined": "Ada",
    }
    bob = await enter("Bob")
    await receive(bob, "welcome")
    for socket in (ada, bob):
        presence = await receive(socket, "presence")
        assert presence["online"] == ["Ada", "Bob"]
        assert presence["joined"] == "Bob"

    await say(ada, " hello ")
    await say(bob, "héllo \N{WAVING HAND SIGN}")
    said = [[await receive(socket, "message") for _ in "12"] for socket in (ada, bob)]

    assert said[0] == said[1]
    assert {(one["name"], one["text"]) for one in said[0]} == {
        ("Ada", "hello"),
        ("Bob", "héllo \N{WAVING HAND SIGN}"),
    }
    await bob.close()
    left = await receive(ada, "presence")
    assert left == {"type": "presence", "online": ["Ada"], "left": "Bob"}


async def test_client_that_vanishes_is_seen_to_leave(enter):
    """A connection that breaks without a closing handshake ends the presence as well."""
    ada, bob = await enter("Ada"), await enter("Bob")
    await receive(bob, "welcome")
    await receive(bob, "presence")
    ada._response.connection.transport.abort()

    assert (await receive(bob, "presence"))["left"] == "Ada"


async def test_rooms_are_separate(enter):
    """What is said in one room is not heard, and who is in it not seen, in another."""
    lobby, tea = await enter("Ada", "lobby"), await enter("Ada", "tea")
    for socket in (lobby, tea):
        assert (await receive(socket, "welcome"))["name"] == "Ada"
        assert (await receive(socket, "presence"))["online"] == ["Ada"]

    await say(lobby, "in the lobby")
    await say(tea, "in the kitchen")

    assert (await receive(tea, "message"))["text"] == "in the kitchen"


async def test_who_comes_later_gets_the_latest_messages(enter):
    """The history has the last 50 messages, with the ids under which they were sent before."""
    ada = await enter("Ada")
    await receive(ada, "welcome")
    await receive(ada, "presence")
    said = []
    for number in range(60):
        await say(ada, f"message {number}")
        said.append(await receive(ada, "message"))
    await ada.close()

    history = (await receive(await enter("Bob"), "welcome"))["history"]

    assert [{"type": "message", **one} for one in history] == said[-50:]


async def test_same_name_is_told_apart(enter):
    """A second Ada, in whatever case, gets a number; a name that was left is free again."""
    names = []
    sockets = [await enter(name) for name in ("Ada", "ada", "  Ada  ")]
    for socket in sockets:
        names.append((await receive(socket, "welcome"))["name"])
    assert names == ["Ada", "ada (2)", "Ada (3)"]

    await sockets[0].close()
    while (await sockets[1].receive_json(timeout=60)).get("left") != "Ada":
        pass

    assert (await receive(await enter("Ada"), "welcome"))["name"] == "Ada"


@pytest.mark.parametrize("name", ["", "   ", "x" * 25, "A\x00da", "A\N{RIGHT-TO-LEFT OVERRIDE}da"])
async def test_bad_name_is_refused(enter, name):
    """The client is told why, and that it need not come again: the socket closes with 4400."""
    socket = await enter(name)

    assert "1 to 24 printable characters" in (await receive(socket, "error"))["text"]
    assert (await socket.receive(timeout=60)).type is aiohttp.WSMsgType.CLOSE
    assert socket.close_code == 4400


@pytest.mark.parametrize(
    "data",
    [
        "no JSON",
        "[" * 8000,
        "null",
        "[]",
        '"text"',
        "{}",
        '{"type": "other"}',
        '{"type": "message"}',
        '{"type": "message", "text": 1}',
        '{"type": "message", "text": "  "}',
        '{"type": "message", "text": "' + "x" * 501 + '"}',
        b"\xff\x00",
    ],
    ids=lambda data: str(data)[:40],
)
async def test_bad_message_is_answered_and_the_chat_goes_on(enter, data):
    """Only the sender is told, and can send a good message next."""
    ada = await enter("Ada")
    await receive(ada, "welcome")
    await receive(ada, "presence")
    await (ada.send_str(data) if isinstance(data, str) else ada.send_bytes(data))
    await say(ada, "x" * 500)

    assert (await receive(ada, "error"))["text"]
    assert (await receive(ada, "message"))["text"] == "x" * 500


async def test_message_that_is_too_long_for_the_socket_closes_it(enter, demo):
    """More than 8 KiB are not read; the others stay."""
    ada, bob = await enter("Ada"), await enter("Bob")
    await receive(bob, "welcome")
    await receive(bob, "presence")
    await say(ada, "x" * 9000)

    assert (await receive(bob, "presence"))["left"] == "Ada"
    assert "Traceback" not in demo.output


async def test_unknown_room_and_foreign_page_are_refused_before_the_handshake(enter, demo):
    """A room that does not exist is answered with 404, a page from elsewhere with 403."""
    for status, room, origin in (
        (404, "cellar", demo.url),
        (403, "lobby", "https://elsewhere.invalid"),
        (403, "lobby", "null"),
    ):
        with pytest.raises(aiohttp.WSServerHandshakeError) as raised:
            await enter("Ada", room, origin=origin)
        assert raised.value.status == status
    socket = await enter("Ada", origin=demo.url)
    await receive(socket, "welcome")


async def test_ctrl_c_stops_the_demo_with_chats_open(enter, demo):
    """Each client is told that the server goes away, and the process ends with status 0."""
    ada = await enter("Ada")
    await receive(ada, "welcome")
    await receive(ada, "presence")
    demo.send_signal(signal.SIGINT)

    assert (await ada.receive(timeout=60)).type is aiohttp.WSMsgType.CLOSE
    assert ada.close_code == 1001
    assert await asyncio.to_thread(demo.wait) == 0
    assert "Traceback" not in demo.output


# --- The page ----------------------------------------------------------------------------


class Page:
    """The chat page in a browser of its own."""

    def __init__(self, driver, url, width, height):
        self.driver = driver
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        driver.get(f"{url}/chat")

    def find(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector):
        return [found.text for found in self.driver.find_elements(By.CSS_SELECTOR, selector)]

    def wait(self, condition, what):
        """Wait until a condition holds that takes no argument."""
        # The page may replace an element between its being found and its being looked at.
        ignored = (NoSuchElementException, StaleElementReferenceException)
        waiting = WebDriverWait(self.driver, 60, poll_frequency=0.05, ignored_exceptions=ignored)
        waiting.until(lambda _: condition(), what)

    def wait_for_state(self, *states):
        """Wait until the page says that it is in one of these states."""
        state = self.find("#state")
        self.wait(lambda: state.get_attribute("data-state") in states, f"state {states}")

    def join(self, name, room="Lobby"):
        self.find("input[name=name]").send_keys(name)
        Select(self.find("select[name=room]")).select_by_visible_text(room)
        self.find("#enter").click()

    def say(self, text):
        self.find("input[name=text]").send_keys(text)
        self.find("#send").click()

    def wait_for_messages(self, *messages):
        """Wait until the page shows exactly these messages, as name and text."""

        def shown():
            return list(
                zip(self.texts("#messages .who"), self.texts("#messages .said"), strict=False)
            )

        self.wait(lambda: shown() == list(messages), f"messages {messages}")

    def wait_for_people(self, *names):
        """Wait until these are shown as online."""
        self.wait(lambda: self.texts("#online li") == list(names), f"people {names}")

    def take_screenshot(self, name):
        """Keep what the page looks like, in full, as an artefact; return the file's content."""
        taken = self.driver.execute_cdp_cmd(
            "Page.captureScreenshot", {"format": "png", "captureBeyondViewport": False}
        )
        ARTIFACTS.mkdir(exist_ok=True)
        content = base64.b64decode(taken["data"])
        (ARTIFACTS / name).write_bytes(content)
        return content


@pytest.fixture
def browse(tmp_path):
    """Open the chat page in a new browser, with a profile of its own."""
    if CHROMIUM is None or CHROMEDRIVER is None:
        pytest.skip("no chromium and chromedriver here: apt-get install chromium chromium-driver")
    with contextlib.ExitStack() as browsers:

        def browse(url, width=1100, height=900):
            options = webdriver.ChromeOptions()
            options.binary_location = CHROMIUM
            profile = tmp_path / f"profile-{width}"
            for flag in (*FLAGS, f"--user-data-dir={profile}"):
                options.add_argument(flag)
            options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
            service = webdriver.ChromeService(CHROMEDRIVER)
            driver = webdriver.Chrome(options=options, service=service)
            browsers.callback(driver.quit)
            return Page(driver, url, width, height)

        yield browse


def test_two_browsers_chat_and_come_back_after_a_restart(start, demo, browse):
    """A wide and a narrow window see each other, and rejoin by themselves when they can."""
    wide = browse(demo.url)
    narrow = browse(demo.url, 390, 844)
    wide.join("Ada")
    wide.wait_for_state("online")
    narrow.join("Bob")
    narrow.wait_for_state("online")
    wide.wait_for_people("Ada (you)", "Bob")
    narrow.wait_for_people("Ada", "Bob (you)")

    wide.say("Hello from a wide window")
    hello = ("Ada", "Hello from a wide window")
    narrow.wait_for_messages(hello)
    markup = "<img src=x onerror=alert(1)> is shown as it is"
    narrow.say(markup)
    wide.wait_for_messages(hello, ("Bob", markup))
    assert not wide.driver.find_elements(By.CSS_SELECTOR, "#messages img")

    port = str(demo.port)
    assert demo.stop() == 0
    for page in (wide, narrow):
        page.wait_for_state("offline", "connecting")
        page.wait(lambda page=page: not page.find("#send").is_enabled(), "no sending")
        page.wait_for_people()
    wide.find("input[name=text]").send_keys("I am ")
    start(str(DEMO), env={"PORT": port})
    for page in (wide, narrow):
        page.wait_for_state("online")
        page.wait(lambda page=page: len(page.texts("#online li")) == 2, "both are online")
    wide.say("back")
    for page in (wide, narrow):
        page.wait_for_messages(hello, ("Bob", markup), ("Ada", "I am back"))

    for page, name in ((wide, "chat-wide.png"), (narrow, "chat-narrow.png")):
        overflow = "return document.documentElement.scrollWidth - innerWidth"
        assert page.driver.execute_script(overflow) <= 0
        assert page.take_screenshot(name).startswith(b"\x89PNG\r\n\x1a\n")
        log = [entry["message"] for entry in page.driver.get_log("browser")]
        assert not [line for line in log if "Content Security" in line or "Uncaught" in line]

    narrow.find("#leave").click()
    wide.wait_for_people("Ada (you)")
    narrow.driver.refresh()
    assert narrow.find("input[name=name]").get_attribute("value") == "Bob"
