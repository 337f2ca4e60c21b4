// Follows /events/stream and shows each event. EventSource itself reconnects after a failure.
"use strict";

const byId = (id) => document.getElementById(id);
const ROWS = 10;
let source = null;
let last = 0;
let resent = 0;

function show(event) {
  const tick = JSON.parse(event.data);
  byId("time").textContent = tick.time;
  byId("viewers").textContent = tick.viewers;
  const row = document.createElement("li");
  row.value = tick.number;
  row.textContent = `${tick.time}, viewers: ${tick.viewers}${tick.resent ? ", sent again" : ""}`;
  byId("log").prepend(row);
  while (byId("log").children.length > ROWS) byId("log").lastChild.remove();
  if (tick.resent) {
    resent += 1;
    byId("missed").textContent = `Missed while disconnected and sent again: ${resent}.`;
  }
  last = tick.number;
}

function connect() {
  byId("state").textContent = "connecting";
  byId("toggle").textContent = "Disconnect";
  source = new EventSource(byId("feed").dataset.stream + (last ? `?last=${last}` : ""));
  source.onopen = () => {
    byId("state").textContent = "open";
    resent = 0;
  };
  source.onerror = () => { byId("state").textContent = "lost, trying again"; };
  source.onmessage = show;
}

function disconnect() {
  source.close();
  source = null;
  byId("state").textContent = "off";
  byId("toggle").textContent = "Connect";
}

byId("toggle").disabled = false;
byId("toggle").addEventListener("click", () => (source ? disconnect() : connect()));
connect();
