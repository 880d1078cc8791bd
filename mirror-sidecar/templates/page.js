// Refreshes the page: fetches it again and changes what differs, so that focus, scrolling and typed text stay.
"use strict";

(() => {
  const EVERY = 3000;
  const GIVE_UP = 15000;
  const box = document.getElementById("refresh");
  const state = document.getElementById("refresh-state");
  const button = document.getElementById("refresh-button");
  let isPaused = false;

  // Text that is the same stays: screen readers announce each change.
  const show = (text) => {
    if (state.textContent !== text) state.textContent = text;
  };

  const isSame = (one, other) =>
    one.nodeType === other.nodeType && one.nodeName === other.nodeName && one.id === other.id;

  const update = (old, fresh) => {
    if (old.nodeType === Node.TEXT_NODE) {
      if (old.data !== fresh.data) old.data = fresh.data;
      return;
    }
    if (old.nodeType !== Node.ELEMENT_NODE || old.hasAttribute("data-keep")) return;
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name)) old.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    if (old.nodeName === "FORM") return;
    updateChildren(old, fresh);
  };

  const updateChildren = (old, fresh) => {
    const wanted = [...fresh.childNodes];
    wanted.forEach((node, index) => {
      const present = old.childNodes[index];
      if (!present) old.append(document.importNode(node, true));
      else if (isSame(present, node)) update(present, node);
      else present.replaceWith(document.importNode(node, true));
    });
    while (old.childNodes.length > wanted.length) old.lastChild.remove();
  };

  const refresh = async () => {
    const response = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(GIVE_UP) });
    if (!response.ok) throw new Error(String(response.status));
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
    if (isPaused) return;
    document.title = fresh.title;
    for (const id of ["content", "time"]) {
      const [old, element] = [document.getElementById(id), fresh.getElementById(id)];
      if (old && element) update(old, element);
    }
  };

  const run = async () => {
    if (!isPaused && !document.hidden) {
      try {
        await refresh();
        if (!isPaused) show("");
      } catch {
        show("The service does not respond: these are the last known values.");
      }
    }
    setTimeout(run, EVERY);
  };

  button.addEventListener("click", () => {
    isPaused = !isPaused;
    button.textContent = isPaused ? "Resume updates" : "Pause updates";
    show(isPaused ? "Updates are paused." : "");
  });
  box.hidden = false;
  setTimeout(run, EVERY);
})();
