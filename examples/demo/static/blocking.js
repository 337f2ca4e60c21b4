// Shows the server's clock and the largest gap between its ticks while a view blocks.
"use strict";

const byId = (id) => document.getElementById(id);
let serverGap = 0;
let pageGap = 0;
let last = null;

function reset() {
  serverGap = pageGap = 0;
  last = null;
}

const source = new EventSource(byId("clock").dataset.stream);
source.onopen = reset;
source.onmessage = (event) => {
  const tick = JSON.parse(event.data);
  const now = performance.now();
  serverGap = Math.max(serverGap, tick.gap);
  if (last !== null) pageGap = Math.max(pageGap, now - last);
  last = now;
  byId("time").textContent = tick.time;
  byId("server-gap").textContent = serverGap;
  byId("page-gap").textContent = Math.round(pageGap);
};
// Browsers slow hidden pages down, so a gap that spans one says nothing about the server.
document.addEventListener("visibilitychange", () => { last = null; });

byId("reset").hidden = false;
byId("reset").addEventListener("click", reset);

byId("block").addEventListener("submit", async (event) => {
  event.preventDefault();
  const row = document.createElement("li");
  const seconds = event.target.elements.seconds.value;
  row.textContent = `Blocking for ${seconds} s …`;
  byId("log").append(row);
  try {
    const query = new URLSearchParams({ seconds });
    const response = await fetch(`${event.target.action}?${query}`, {
      headers: { Accept: "application/json" },
    });
    const answer = await response.json();
    row.textContent = response.ok
      ? `Blocked for ${answer.slept} s in ${answer.thread}; largest gap so far `
        + `${serverGap} ms on the server.`
      : `${response.status}: ${answer.description}`;
  } catch (error) {
    row.textContent = `No answer: ${error.message}`;
  }
});
