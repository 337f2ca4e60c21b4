// Joins a room over a WebSocket, shows what happens there, and reconnects when the connection is lost.
"use strict";

const byId = (id) => document.getElementById(id);
const join = byId("join");
const say = byId("say");
const FIRST_DELAY = 500;
const LONGEST_DELAY = 30000;
const ROWS = 500;
let socket = null;
let address = null;
let me = "";
let attempts = 0;
let timer = 0;
let shown = new Set(); // the ids of messages: a history repeats some after a reconnect
let unconfirmed = []; // what was sent and has not come back

function setState(state, text = state) {
  byId("state").dataset.state = state;
  byId("state").textContent = text;
  byId("send").disabled = state !== "online";
}

function showError(text) {
  byId("error").textContent = text;
  byId("error").hidden = !text;
}

function element(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text; // never innerHTML: people write this
  return made;
}

function addRow(row) {
  const talk = byId("talk");
  const atEnd = talk.scrollHeight - talk.scrollTop - talk.clientHeight < 40;
  byId("messages").append(row);
  while (byId("messages").children.length > ROWS) byId("messages").firstChild.remove();
  if (atEnd) talk.scrollTop = talk.scrollHeight; // someone who reads above stays there
}

function addMessage({ id, name, text, time }) {
  if (shown.has(id)) return;
  shown.add(id);
  const row = element("li", name === me ? "mine" : "", "");
  const date = new Date(time * 1000);
  const clock = element("time", "", date.toLocaleTimeString([], { timeStyle: "short" }));
  clock.dateTime = date.toISOString();
  row.append(element("bdi", "who", name), element("bdi", "said", text), " ", clock);
  addRow(row);
}

function addEvent(name, text) {
  const row = element("li", "event", "");
  row.append(element("bdi", "", name), text);
  addRow(row);
}

const receive = {
  welcome({ name, history }) {
    me = name;
    attempts = 0;
    history.forEach(addMessage);
    setState("online");
  },
  presence({ online, joined, left }) {
    byId("count").textContent = `Online: ${online.length}`;
    byId("online").replaceChildren(...online.map((name) => {
      const row = element("li", "", "");
      row.append(element("bdi", "", name), name === me ? " (you)" : "");
      return row;
    }));
    if (joined) addEvent(joined, " joined");
    if (left) addEvent(left, " left");
  },
  message(message) {
    addMessage(message);
    if (message.name !== me) return;
    unconfirmed.shift();
    showError("");
  },
  error({ text }) {
    unconfirmed.shift();
    showError(text);
  },
};

function connect() {
  clearTimeout(timer);
  setState("connecting");
  const opened = new WebSocket(address); // its scheme is ws, or wss on a page that came by https
  socket = opened;
  opened.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    receive[message.type]?.(message);
  };
  opened.onclose = ({ code }) => {
    if (socket !== opened) return;
    if (code >= 4400 && code < 4500) leave(); // refused: trying again would not help
    else retry();
  };
}

function release() {
  const closing = socket;
  socket = null;
  closing?.close();
  byId("online").replaceChildren();
  byId("count").textContent = "Online";
  if (unconfirmed.length && !say.elements.text.value) say.elements.text.value = unconfirmed.pop();
  unconfirmed = [];
}

function retry() {
  if (byId("state").dataset.state === "online") addEvent("", "Connection lost");
  release();
  const delay = Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** attempts) * (0.5 + Math.random() / 2);
  attempts += 1;
  setState("offline", `offline, next try in ${Math.ceil(delay / 1000)} s`);
  timer = setTimeout(connect, delay);
}

function leave() {
  clearTimeout(timer);
  release();
  address = null;
  byId("chat").hidden = true;
  join.hidden = false;
  join.elements.name.focus();
}

join.addEventListener("submit", (event) => {
  event.preventDefault();
  const name = join.elements.name.value.trim();
  const room = join.elements.room.selectedOptions[0];
  try {
    localStorage.setItem("chat-name", name);
  } catch { /* storage is off: the name is asked for again next time */ }
  address = new URL(room.dataset.socket, location.href);
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  address.searchParams.set("name", name);
  attempts = 0;
  shown = new Set();
  byId("messages").replaceChildren();
  byId("title").textContent = room.textContent;
  showError("");
  join.hidden = true;
  byId("chat").hidden = false;
  say.elements.text.focus();
  connect();
});

say.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = say.elements.text.value.trim();
  if (!text || byId("state").dataset.state !== "online") return;
  socket.send(JSON.stringify({ type: "message", text }));
  unconfirmed.push(text);
  say.elements.text.value = "";
});

byId("leave").addEventListener("click", () => {
  showError("");
  leave();
});
// The browser knows sooner than the connection.
addEventListener("offline", () => { if (socket) retry(); });
addEventListener("online", () => {
  if (!address || socket) return;
  attempts = 0;
  connect();
});

try {
  join.elements.name.value = localStorage.getItem("chat-name") ?? "";
} catch { /* storage is off */ }
byId("enter").disabled = false;
