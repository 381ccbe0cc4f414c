// Keeps the page up to date, and asks before what cannot be taken back. Without it the page reads the same.
"use strict";

const live = document.getElementById("live");
const away = document.getElementById("away");
const liveness = document.getElementById("liveness");
let source = null;

function say(words) {
  liveness.hidden = false;
  liveness.textContent = " " + words;
}

function warn(words) {
  away.hidden = !words;
  away.textContent = words;
}

// Elements that the user has opened, focused or scrolled stay so.
function replace(html) {
  const selection = document.getSelection();
  if (selection && !selection.isCollapsed && live.contains(selection.anchorNode)) return;
  const open = [...live.querySelectorAll("details[open]")].map((each) => each.id);
  const held = live.contains(document.activeElement) ? document.activeElement : null;
  const scrolled = [...live.querySelectorAll("pre, .log, .graph")].map((each) => [each.scrollTop, each.scrollLeft]);
  const place = held && [...live.querySelectorAll(held.tagName)].indexOf(held);
  const fresh = new DOMParser().parseFromString(html, "text/html");
  live.replaceChildren(...fresh.body.childNodes);
  for (const id of open) document.getElementById(id)?.setAttribute("open", "");
  live.querySelectorAll("pre, .log, .graph").forEach((each, n) => {
    if (scrolled[n]) [each.scrollTop, each.scrollLeft] = scrolled[n];
  });
  if (held) (document.getElementById(held.id) || live.querySelectorAll(held.tagName)[place])?.focus({ preventScroll: true });
}

function listen() {
  if (source) return;
  source = new EventSource(location.href);
  source.addEventListener("open", () => say("This page is live."));
  source.addEventListener("page", (event) => {
    warn("");
    replace(event.data);
  });
  source.addEventListener("away", (event) => warn(event.data + ". This page shows the last known state; retrying."));
  source.addEventListener("error", () => {
    say("This page is as of its loading.");
    if (source.readyState === EventSource.CLOSED) source = null; // refused: too many are open
  });
}

function rest() {
  if (source) source.close();
  source = null;
}

// A browser has few connections for one address: a page that nobody sees needs none.
if (live && "live" in live.dataset) {
  document.addEventListener("visibilitychange", () => (document.hidden ? rest() : listen()));
  window.addEventListener("pagehide", rest);
  window.addEventListener("pageshow", () => document.hidden || listen());
}

// On a narrow screen the sections are in one row that can be shifted.
const sections = document.querySelector("nav[aria-label=Sections]");
const current = sections?.querySelector("[aria-current]");
if (current) sections.scrollLeft = current.offsetLeft - sections.offsetLeft - 40;

document.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question && !window.confirm(question)) event.preventDefault();
});

// The word of what was done is for this time only, not for a reload.
const here = new URL(location.href);
if (here.searchParams.has("done")) {
  here.searchParams.delete("done");
  history.replaceState(null, "", here);
}
