"use strict";

const tables = document.getElementById("tables");
const live = document.getElementById("live");
const told = document.getElementById("told");

function tell(text) {
  told.textContent = text;
  told.hidden = false;
  clearTimeout(tell.timer);
  tell.timer = setTimeout(() => { told.hidden = true; }, 6000);
}

function distance(seconds) {
  const size = Math.abs(seconds);
  const [count, unit] = size < 60 ? [size, "s"] : size < 3600 ? [size / 60, "min"] : size < 172800 ? [size / 3600, "h"] : [size / 86400, "days"];
  return `${Math.round(count)} ${unit}`;
}

function showTimes() {
  for (const time of tables.querySelectorAll("time")) {
    const seconds = (Date.now() - Date.parse(time.dateTime)) / 1000;
    time.textContent = seconds < -1 ? `in ${distance(seconds)}` : seconds < 1 ? "now" : `${distance(seconds)} ago`;
  }
}

function listen() {
  const stream = new EventSource("page/stream");
  stream.addEventListener("tables", (event) => {
    // what is under the pointer or has the focus is not taken away
    const focused = document.activeElement?.dataset?.lease && [document.activeElement.dataset.lease, document.activeElement.dataset.do];
    tables.innerHTML = event.data;
    showTimes();
    if (focused) tables.querySelector(`button[data-lease="${CSS.escape(focused[0])}"][data-do="${CSS.escape(focused[1])}"]`)?.focus();
    live.dataset.state = "live";
    live.textContent = "live";
  });
  stream.addEventListener("error", () => {
    live.dataset.state = "lost";
    live.textContent = "no connection to the service; what is shown is old";
  });
}

tables.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-do]");
  if (!button || (button.dataset.ask && !confirm(button.dataset.ask))) return;
  button.disabled = true;
  try {
    const reply = await fetch(`page/${button.dataset.do}`, { method: "POST", body: new URLSearchParams({ lease: button.dataset.lease }) });
    const text = await reply.text();
    if (!reply.ok) tell(text);
    else if (button.dataset.do === "psql") await copy(text);
  } catch (error) {
    tell(`the service does not answer: ${error.message}`);
  } finally {
    button.disabled = false;
  }
});

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    tell("copied; it holds the password");
  } catch {
    tell(text); // the clipboard is closed to pages without TLS that are not on this machine
  }
}

showTimes();
setInterval(showTimes, 1000);
listen();
