// j and k move from row to row, Space picks, Enter opens. Rows of live runs are kept fresh; picks stay.
(() => {
  const body = document.querySelector("table.runs tbody");
  if (!body) return;
  const form = body.closest("form"), bulk = form.querySelector(".bulk"), words = bulk.querySelector("b");
  const rows = () => [...body.querySelectorAll("tr")], box = (row) => row.querySelector("input");
  function count() {
    let n = 0;
    for (const row of rows()) { const on = box(row).checked; n += on; if (on) row.setAttribute("aria-selected", "true"); else row.removeAttribute("aria-selected"); }
    words.textContent = `${n} picked`;
    bulk.classList.toggle("away", !n);
  }
  form.addEventListener("change", count);
  form.addEventListener("reset", () => setTimeout(count));
  count();
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches("[type=search]")) { if (event.key === "Escape" && !event.target.value) event.target.blur(); return; }
    if (event.target.closest("dialog, select, textarea")) return;
    const all = rows(), at = all.indexOf(document.activeElement.closest?.("tr"));
    if ((event.key === "j" || event.key === "k") && Lab.letters()) box(all[Math.max(0, Math.min(all.length - 1, at < 0 ? 0 : at + (event.key === "j" ? 1 : -1)))])?.focus();
    else if (event.key === "Enter" && at >= 0 && event.target.matches("[type=checkbox]")) { event.preventDefault(); location.href = all[at].querySelector("a").href; }
    else if (event.key === "Escape") form.reset();
  });

  let before = {};
  async function refresh() {
    if (document.hidden || !body.querySelector("tr[data-live]")) return;
    const address = new URL(location.href);
    address.searchParams.set("rows", "");
    const answer = await fetch(address).catch(() => null);
    if (!answer?.ok) return;
    const fresh = new DOMParser().parseFromString(`<table><tbody>${await answer.text()}</tbody></table>`, "text/html");
    for (const row of fresh.querySelectorAll("tr")) {
      const here = document.getElementById(row.id);
      if (!here || before[row.id] === row.innerHTML) continue;
      before[row.id] = row.innerHTML;
      here.toggleAttribute("data-live", row.hasAttribute("data-live"));
      [...row.children].slice(1).forEach((cell, i) => { if (here.children[i + 1].innerHTML !== cell.innerHTML) here.children[i + 1].replaceWith(document.importNode(cell, true)); });
    }
  }
  if (body.hasAttribute("data-live")) setInterval(refresh, 3000);
})();
