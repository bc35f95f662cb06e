// Keys of a hunt's tricks: j and k move, x and f mark the one at hand and go on. Forms do the rest, with or without this.
(() => {
  const list = document.getElementById("tricks");
  if (!list) return;
  const cards = () => [...list.querySelectorAll("[data-trick]")];
  let current = "";
  list.addEventListener("focusin", (event) => { current = event.target.closest("[data-trick]")?.id || current; });

  function show(card) {
    if (!card) return;
    current = card.id;
    card.focus({ preventScroll: true });
    card.scrollIntoView({ block: "nearest" });
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || Lab.inField(event.target) || !Lab.letters()) return;
    const all = cards(), at = all.findIndex((card) => card.id === current);
    const verdict = { x: "nonsense", f: "fair" }[event.key];
    if (event.key === "j") show(all[Math.min(at + 1, all.length - 1)]);
    else if (event.key === "k") show(all[Math.max(at - 1, 0)]);
    else if (verdict && at < 0) show(all[0]);
    else if (verdict) {
      all[at].querySelector(`[value=${verdict}]`).click();
      show(all[Math.min(at + 1, all.length - 1)]);
    } else return;
    event.preventDefault();
  });
  // The card that was marked is a new element: who stood on it stands on it again.
  document.addEventListener("htmx:oobAfterSwap", () => {
    if (document.activeElement === document.body && current) document.getElementById(current)?.focus({ preventScroll: true });
  });
  document.addEventListener("htmx:responseError", () => Lab.toast("That could not be marked: reload the page and try again."));
})();
