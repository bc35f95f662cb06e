// Ctrl K: jump to any run, artifact, project or page. Without script the Jump link leads to /search.
(() => {
  const dialog = document.createElement("dialog");
  dialog.className = "palette";
  dialog.setAttribute("aria-label", "Jump");
  const input = document.createElement("input"), results = document.createElement("ul");
  Object.assign(input, { className: "input", placeholder: "A run’s number, a name, a page", autocomplete: "off" });
  for (const [name, value] of Object.entries({ role: "combobox", "aria-expanded": "true", "aria-controls": "jump-list", "aria-label": "Jump to" })) input.setAttribute(name, value);
  results.id = "jump-list";
  results.setAttribute("role", "listbox");
  results.setAttribute("aria-label", "Results");
  dialog.append(input, results);
  document.body.append(dialog);
  let found = [], at = 0, asked = 0, timer;

  function row(place, i) {
    const item = document.createElement("li"), stone = document.createElement("span"), name = document.createElement("span"), kind = document.createElement("span");
    item.id = `jump-${i}`;
    item.setAttribute("role", "option");
    item.setAttribute("aria-selected", i === at);
    stone.className = `stone ${place.stone}`;
    stone.textContent = place.number;
    name.textContent = place.name;
    kind.className = "dim small push";
    kind.textContent = place.kind;
    item.append(stone, name, kind);
    item.addEventListener("click", () => { location.href = place.url; });
    return item;
  }
  function show() {
    results.replaceChildren(...found.map(row));
    input.setAttribute("aria-activedescendant", found.length ? `jump-${at}` : "");
  }
  async function ask() {
    const mine = ++asked;
    const answer = await fetch(`/search?format=json&q=${encodeURIComponent(input.value)}`, { headers: { Accept: "application/json" } });
    if (!answer.ok || mine !== asked) return;
    found = (await answer.json()).items;
    at = 0;
    show();
  }
  function open() { input.value = ""; dialog.showModal(); ask(); }
  input.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(ask, 80); });
  input.addEventListener("keydown", (event) => {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (by && found.length) { event.preventDefault(); at = (at + by + found.length) % found.length; show(); }
    if (event.key === "Enter" && found[at]) location.href = found[at].url;
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "k" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); if (dialog.open) dialog.close(); else open(); }
  });
  document.addEventListener("click", (event) => {
    if (event.target.closest(".jump")) { event.preventDefault(); open(); }
    if (event.target === dialog) dialog.close();
  });
})();
