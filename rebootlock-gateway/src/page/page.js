// Keeps the page as the fleet is, and its ages right. Without it the page works by reloading.
"use strict";

(() => {
  const SILENCE = 45000; // ms; the server says something every 15 s
  const AGAIN = 5000;
  const MUCH_LATER = 60000;
  const LOST = "Connection lost; trying again";

  const live = document.getElementById("live");
  let state = document.body.dataset.state || "";
  // Ages are counted by the server's clock, whatever this machine believes.
  let ahead = Date.parse(document.body.dataset.now) - Date.now();

  // "42 s", "5 min", "2 h 5 min", "3 d 4 h"; the server writes it in the same way.
  const span = (secs) => {
    const units = [["d", 86400], ["h", 3600], ["min", 60]];
    const first = units.findIndex(([, size]) => secs >= size);
    if (first < 0) return `${secs} s`;
    const [name, size] = units[first];
    const rest = units[first + 1];
    const more = rest ? Math.floor((secs % size) / rest[1]) : 0;
    return `${Math.floor(secs / size)} ${name}` + (more > 0 ? ` ${more} ${rest[0]}` : "");
  };

  const ago = (then) => {
    const secs = Math.floor((Date.now() + ahead) / 1000) - Math.floor(then / 1000);
    if (secs === 0) return "just now";
    return secs > 0 ? `${span(secs)} ago` : `in ${span(-secs)}`;
  };

  const tick = (below) => {
    for (const age of below.querySelectorAll("time > .ago")) {
      const text = ago(Date.parse(age.parentElement.dateTime));
      if (age.textContent !== text) age.textContent = text;
    }
  };

  const keys = (below) => new Set(Array.from(below.querySelectorAll("[data-key]"), (row) => row.dataset.key));

  // Puts a part in the place of the one before, without taking the focus away from whoever is in it.
  const put = (id, html) => {
    const before = document.getElementById(id);
    if (!before) {
      // The page began while the store did not answer, and has no place for it.
      setTimeout(() => location.reload(), 1000);
      return;
    }
    const template = document.createElement("template");
    template.innerHTML = html;
    const after = template.content.firstElementChild;
    if (!after) return;
    const known = keys(before);
    for (const row of after.querySelectorAll("[data-key]")) {
      if (!known.has(row.dataset.key)) row.classList.add("fresh");
    }
    tick(after);
    const focused = before.contains(document.activeElement) && document.activeElement.getAttribute("href");
    before.replaceWith(after);
    if (focused) {
      const link = Array.from(after.querySelectorAll("a")).find((a) => a.getAttribute("href") === focused);
      if (link) link.focus({ preventScroll: true });
    }
  };

  const say = (what, text) => {
    if (live.dataset.state === what) return;
    live.dataset.state = what;
    live.textContent = text;
  };

  let source = null;
  let watchdog = 0;

  const heard = () => {
    clearTimeout(watchdog);
    watchdog = setTimeout(again, SILENCE, 0, LOST);
  };

  const close = () => {
    clearTimeout(watchdog);
    if (source) source.close();
    source = null;
  };

  function again(wait, text) {
    close();
    if (text) say("lost", text);
    watchdog = setTimeout(open, wait);
  }

  function open() {
    close();
    // A tab that nobody sees leaves its connection to those that are seen.
    if (document.hidden) return;
    source = new EventSource("events?have=" + encodeURIComponent(state));
    heard();
    source.addEventListener("part", (event) => {
      const { id, html } = JSON.parse(event.data);
      put(id, html);
      heard();
    });
    source.addEventListener("beat", (event) => {
      const beat = JSON.parse(event.data);
      state = beat.state;
      ahead = Date.parse(beat.now) - Date.now();
      put("as-of", beat.asOf);
      say("live", "Live");
      heard();
    });
    // It takes leave of every page now and then, and of all when it stops.
    source.addEventListener("bye", () => again(1000));
    source.onerror = () => {
      const refused = source.readyState === EventSource.CLOSED;
      again(refused ? MUCH_LATER : AGAIN, refused ? "Not kept up to date; reload the page" : LOST);
    };
  }

  if (document.body.dataset.state === undefined) return;
  // What was said after a form is said once.
  if (location.search) history.replaceState(null, "", location.pathname);
  tick(document);
  setInterval(() => tick(document), 1000);
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  open();
})();
