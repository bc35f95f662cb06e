// The board is one stop for Tab; inside it, arrows walk to the nearest stone in that direction. Pointing at a
// stone lights what it came from and what came of it. While something runs, what has changed is replaced.
(() => {
  const live = document.getElementById("live");
  const stones = () => [...live.querySelectorAll(".map-stones a")];
  const place = (stone) => { const box = stone.querySelector(".stone").getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; };
  const ways = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  live.addEventListener("keydown", (event) => {
    const way = ways[event.key], all = stones(), here = all.indexOf(document.activeElement);
    if (!way || here < 0) return;
    event.preventDefault();
    const [x, y] = place(all[here]);
    let best = null, least = Infinity;
    all.forEach((stone, i) => {
      const [u, v] = place(stone), along = (u - x) * way[0] + (v - y) * way[1];
      const across = Math.abs((u - x) * way[1]) + Math.abs((v - y) * way[0]);
      if (i !== here && along > 4 && along + 3 * across < least) { least = along + 3 * across; best = stone; }
    });
    if (!best) return;
    all.forEach((stone) => { stone.tabIndex = stone === best ? 0 : -1; });
    best.focus();
  });

  function kin(id) {
    const links = [...live.querySelectorAll(".map-lines .link")].map((path) => [path.dataset.from, path.dataset.to, path]);
    const family = new Set([id]), paths = new Set();
    for (const [from, to] of [[0, 1], [1, 0]]) {
      const left = [id];
      while (left.length) {
        const at = left.pop();
        for (const link of links) if (link[from] === at && !paths.has(link[2])) { paths.add(link[2]); family.add(link[to]); left.push(link[to]); }
      }
    }
    return [family, paths];
  }
  function light(target) {
    const item = target?.closest?.(".map-stones li"), map = live.querySelector(".map");
    map?.classList.toggle("lit", Boolean(item));
    const [family, paths] = item ? kin(item.dataset.id) : [new Set(), new Set()];
    live.querySelectorAll(".map-stones li").forEach((one) => one.classList.toggle("kin", family.has(one.dataset.id)));
    live.querySelectorAll(".map-lines .link").forEach((path) => path.classList.toggle("kin", paths.has(path)));
  }
  live.addEventListener("pointerover", (event) => light(event.target));
  live.addEventListener("pointerleave", () => light(null));
  live.addEventListener("focusin", (event) => light(event.target));
  live.addEventListener("focusout", () => light(null));

  // Only parts whose HTML differs from what the server said last are replaced, so nothing flickers.
  let before = null;
  const parts = (root) => Object.fromEntries([...root.querySelectorAll(".map, #tour-progress, #running, #waiting, #next .todo")].map((part) => [part.id || part.className.split(" ")[0], part]));
  async function refresh() {
    if (document.hidden) return;
    const answer = await fetch("/?live", { headers: { "HX-Request": "true" } }).catch(() => null);
    if (!answer?.ok) return;
    const page = new DOMParser().parseFromString(`<div>${await answer.text()}</div>`, "text/html"), fresh = parts(page);
    const now = parts(live), focused = document.activeElement?.id;
    if (Object.keys(fresh).join() !== Object.keys(now).join()) { live.replaceChildren(...page.body.firstChild.cloneNode(true).childNodes); window.htmx?.process(live); }
    else for (const [name, part] of Object.entries(fresh)) {
      if (before?.[name] !== part.outerHTML) now[name].replaceWith(document.importNode(part, true));
    }
    before = Object.fromEntries(Object.entries(fresh).map(([name, part]) => [name, part.outerHTML]));
    if (focused && document.activeElement === document.body) document.getElementById(focused)?.focus();
  }
  if (live.hasAttribute("data-live")) setInterval(refresh, 3000);
})();
