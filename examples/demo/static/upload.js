// Sends the chosen file as a raw request body, with progress; without this, the form posts itself.
"use strict";

const byId = (id) => document.getElementById(id);
const form = byId("upload");
let xhr = null;

function say(text, bad = false) {
  byId("sending").hidden = false;
  byId("state").textContent = text;
  byId("state").className = bad ? "notice bad" : "";
}

function finish() {
  byId("cancel").hidden = true;
  xhr = null;
}

function answered() {
  const { status, response } = xhr;
  finish();
  if (status !== 200) {
    say(`${status}: ${response?.description ?? "the server refused the file."}`, true);
    return;
  }
  byId("progress").value = 1;
  say("Done.");
  byId("result").hidden = false;
  byId("name").textContent = response.name;
  byId("size").textContent = `${response.size.toLocaleString("en")} bytes`;
  byId("pieces").textContent = response.pieces.toLocaleString("en");
  byId("sha256").textContent = response.sha256;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (xhr) return;
  const file = form.elements.file.files[0];
  byId("result").hidden = true;
  byId("progress").value = 0;
  if (file.size > Number(form.dataset.limit)) {
    say("Not sent: the server would answer 413, because the file is over its limit.", true);
    return;
  }
  xhr = new XMLHttpRequest();
  xhr.open("POST", `${form.dataset.stream}?name=${encodeURIComponent(file.name)}`);
  xhr.setRequestHeader("Accept", "application/json");
  xhr.setRequestHeader("Content-Type", "application/octet-stream");
  xhr.responseType = "json";
  xhr.upload.onprogress = ({ loaded, total }) => {
    byId("progress").value = total ? loaded / total : 1;
    say(`${loaded.toLocaleString("en")} of ${total.toLocaleString("en")} bytes sent`);
  };
  xhr.onload = answered;
  xhr.onerror = () => { finish(); say("The connection closed before an answer came.", true); };
  xhr.onabort = () => { finish(); say("Cancelled."); };
  byId("cancel").hidden = false;
  say("Sending.");
  xhr.send(file);
});

byId("cancel").addEventListener("click", () => xhr?.abort());
