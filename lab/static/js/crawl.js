// The threshold line: drag it or use the arrow keys. Bars follow at once; the funnel is counted again by the
// server from the stored measures of every page, one request at a time and always the newest threshold.
(() => {
  const source = document.getElementById("threshold-data");
  if (!source) return;
  const data = JSON.parse(source.textContent);
  const histo = document.querySelector("[data-histo]"), cut = histo.querySelector(".cut"), output = cut.querySelector("output");
  const bars = [...histo.querySelectorAll("rect")];
  const funnel = document.querySelector(".funnel"), inBytes = funnel.dataset.by === "bytes";
  const run = document.querySelector("[data-run]"), delta = document.querySelector("[data-delta]");
  const digits = Math.max(0, -Math.floor(Math.log10(data.step) + 1e-9));
  const end = data.lo + data.step * data.n_bins;
  const group = (value) => Math.round(value).toLocaleString("en-GB");
  const shown = (value) => Number(value.toFixed(Math.max(digits, 6))).toLocaleString("en-GB", { minimumFractionDigits: Math.min(digits, 4), maximumFractionDigits: Math.max(digits, 4) });
  const size = (value) => {
    for (const unit of ["B", "kB", "MB", "GB"]) { if (value < 999.5) return `${value >= 100 || unit === "B" || unit === "kB" ? value.toFixed(0) : value.toFixed(1)} ${unit}`; value /= 1000; }
    return `${value.toFixed(1)} TB`;
  };
  const say = (node, text) => { if (node && node.textContent !== text) node.textContent = text; };

  // The first count is the crawl's own; what it had under the thresholds of the address came with the page.
  const moved = { ...data.moved };
  let now = data.now, asked = 0, busy = false;

  function draw() {
    const place = Math.min(1, Math.max(0, (now - data.lo) / (end - data.lo)));
    cut.style.insetInlineStart = `${100 * place}%`;
    cut.setAttribute("aria-valuenow", now);
    cut.setAttribute("aria-valuetext", shown(now));
    say(output, shown(now));
    say(document.querySelector("[data-cut]"), shown(now));
    bars.forEach((bar, i) => {
      const edge = data.lo + data.step * i, slack = data.step / 1e6;
      bar.classList.toggle("out", data.side === "min" ? edge + data.step <= now + slack : edge >= now - slack);
    });
    const changed = Object.keys(moved).length > 0, query = new URLSearchParams(location.search);
    for (const key of [...query.keys()]) if (key.startsWith("t.")) query.delete(key);
    for (const [field, value] of Object.entries(moved)) query.set(`t.${field}`, value);
    history.replaceState(null, "", `?${query}${location.hash}`);
    document.querySelectorAll("a[data-keep]").forEach((link) => {
      const url = new URL(link.href);
      for (const key of [...url.searchParams.keys()]) if (key.startsWith("t.")) url.searchParams.delete(key);
      for (const [field, value] of Object.entries(moved)) url.searchParams.set(`t.${field}`, value);
      link.href = url;
    });
    const start = new URL(run.dataset.start, location.href);
    for (const [field, value] of Object.entries(moved)) start.searchParams.set(`config.${field}`, value);
    run.setAttribute("aria-disabled", String(!changed));
    if (changed) run.href = start; else run.removeAttribute("href");
  }

  function tell(counted) {
    for (const stage of counted.stages) {
      const row = funnel.querySelector(`[data-stage="${stage.stage}"]`);
      const [whole, came, left] = inBytes ? [counted.bytes, stage.bytes_in, stage.bytes] : [counted.pages, stage.in, stage.kept];
      row.querySelector("[data-in]").style.setProperty("--w", `${100 * came / Math.max(1, whole)}%`);
      row.querySelector("[data-left]").style.setProperty("--w", `${100 * left / Math.max(1, whole)}%`);
      say(row.querySelector("[data-gone]"), inBytes ? size(came - left) : group(stage.dropped));
      say(row.querySelector("[data-out]"), inBytes ? size(left) : group(left));
    }
    document.querySelectorAll("[data-rule]").forEach((node) => say(node, group(counted.rules[node.dataset.rule] || 0)));
    const change = counted.documents - data.documents;
    let text = Object.keys(moved).length ? "The same documents in the end." : "As in this run.";
    if (change) text = `${group(Math.abs(change))} ${change > 0 ? "more" : "fewer"} documents in the end${counted.unseen ? `; ${group(counted.unseen)} of them later stages have not judged` : ""}.`;
    say(delta, text);
  }

  async function recount() {
    asked += 1;
    if (busy) return;
    busy = true;
    for (let seen = -1; seen !== asked; ) {
      seen = asked;
      const query = new URLSearchParams(Object.entries(moved).map(([field, value]) => [`t.${field}`, value]));
      try {
        const answer = await fetch(`${data.recount}?${query}`, { headers: { Accept: "application/json" } });
        const counted = await answer.json();
        if (answer.ok) tell(counted); else say(delta, counted.detail);
      } catch { say(delta, "The lab does not answer; the count is the last one."); }
    }
    busy = false;
  }

  function put(value) {
    const bin = Math.round((value - data.lo) / data.step);
    const next = Number((data.lo + data.step * Math.max(0, Math.min(data.n_bins, bin))).toFixed(Math.max(digits, 6)));
    if (next === now) return;
    now = next;
    if (Math.abs(now - data.was) < data.step / 1e6) { now = data.was; delete moved[data.field]; } else moved[data.field] = now;
    draw();
    recount();
  }

  const fromPointer = (event) => {
    const box = histo.getBoundingClientRect();
    put(data.lo + (event.clientX - box.left) / box.width * (end - data.lo));
  };
  cut.addEventListener("pointerdown", (event) => { event.preventDefault(); cut.focus(); cut.setPointerCapture(event.pointerId); cut.onpointermove = fromPointer; });
  for (const name of ["pointerup", "pointercancel"]) cut.addEventListener(name, () => { cut.onpointermove = null; });
  histo.querySelector("svg").addEventListener("pointerdown", fromPointer);
  cut.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -5, PageUp: 5, Home: -1e9, End: 1e9 }[event.key];
    if (by) { event.preventDefault(); put(Math.min(end, Math.max(data.lo, now)) + by * data.step); }
  });
  document.querySelector("[data-reset]").addEventListener("click", () => { delete moved[data.field]; now = data.was; draw(); recount(); });
  run.addEventListener("click", (event) => { if (run.getAttribute("aria-disabled") === "true") event.preventDefault(); });
  run.dataset.start = run.getAttribute("href");
  draw();
  tell({ ...data, documents: data.counted, pages: data.pages });
})();
