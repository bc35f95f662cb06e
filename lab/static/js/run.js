// A run's page while it lives: one event stream changes figures, bars, curves, samples and log. What is drawn
// comes from the page itself, so a reload loses nothing; what the stream repeats is left out by its number.
(() => {
  const root = document.getElementById("run-live");
  const source = document.getElementById("main-plot-data");
  const node = document.getElementById("main-plot");
  const main = source ? JSON.parse(source.textContent) : null;
  const field = (name) => document.querySelector(`[data-live-field="${name}"]`);
  const say = (name, text) => { const at = field(name); if (at && at.textContent !== text) at.textContent = text; };
  const digits = (value, n = 4) => {
    if (value === null || value === undefined) return "–";
    if (!Number.isFinite(value)) return String(value);
    if (value && Math.abs(value) < 1e-3) return value.toExponential(1).replace(".0e", "e").replace("e+", "e");
    const whole = Math.max(1, Math.floor(Math.log10(Math.abs(value) || 1)) + 1);
    return value.toLocaleString("en", { maximumFractionDigits: Number.isInteger(value) ? 0 : Math.max(0, n - whole) });
  };
  const duration = (seconds) => {
    if (seconds === null || seconds === undefined) return "–";
    if (seconds > 0 && seconds < 2.95) return `${seconds.toFixed(1)} s`;
    if (seconds < 99.5) return `${Math.round(seconds)} s`;
    const minutes = Math.round(seconds / 60);
    if (minutes < 60) return `${minutes} min`;
    return minutes < 1440 ? `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min` : `${Math.round(minutes / 1440)} days`;
  };

  // The main curve. Its end carries its value, its ghost carries its number.
  const series = {};
  function notes() {
    const found = [], end = (points) => { let i = points.steps.length - 1; while (i > 0 && points.values[i] === null) i -= 1; return i; };
    const at = end(main.curve);
    if (at >= 0) found.push({ x: main.curve.steps[at], y: y(main.curve.values[at]), text: `<b>${digits(main.curve.values[at])}</b>`, xshift: 6, font: { color: "--c1" } });
    if (main.rival?.steps.length) { const i = end(main.rival); found.push({ x: main.rival.steps[i], y: y(main.rival.values[i]), text: `#${main.rival.run}`, xshift: 6, font: { color: "--ink-3" } }); }
    return found;
  }
  let scale = "linear";
  const y = (value) => (scale === "log" && value > 0 ? Math.log10(value) : value);
  function axis() {
    // Wide enough for the whole run at once: axes widen in steps, not at each point.
    const last = main.curve.steps.at(-1) || 1, reach = main.live && main.total ? main.total : null;
    return { title: { text: "step" }, range: reach ? [0, Math.max(reach, main.rival?.steps.at(-1) || 0)] : undefined, autorange: reach ? false : true, rangemode: last > 20 ? "tozero" : "normal" };
  }
  function draw() {
    const few = main.curve.steps.length < 60;
    const traces = [{ type: "scatter", name: `#${main.run}`, mode: few ? "lines+markers" : "lines", marker: { size: 4 }, line: { color: "--c1", width: 1.75 }, x: main.curve.steps, y: main.curve.values, hovertemplate: "%{y:.4~g}<extra>this run</extra>" }];
    if (main.rival) traces.unshift({ type: "scatter", name: `#${main.rival.run}`, mode: "lines", line: { color: "--edge", width: 1.5, dash: "dash" }, x: main.rival.steps, y: main.rival.values, hovertemplate: `%{y:.4~g}<extra>#${main.rival.run}</extra>` });
    Lab.plot(node, traces, { height: node.classList.contains("drawn") ? node.clientHeight : 310, margin: { l: 48, r: 64, t: 10, b: 40 }, xaxis: axis(), yaxis: { type: scale, title: { text: main.unit } }, annotations: notes() });
    node.classList.add("drawn");
  }
  if (main && node && window.Plotly) {
    node.querySelector(".spark")?.remove();
    draw();
    const seg = document.querySelector("[data-scale]");
    if (seg) {
      seg.hidden = false;
      seg.addEventListener("click", (event) => {
        const type = event.target.dataset.type;
        if (!type) return;
        scale = type;
        seg.querySelectorAll("button").forEach((button) => button.setAttribute("aria-pressed", button === event.target));
        draw();
      });
    }
  }
  if (!root?.hasAttribute("data-live")) return;

  function extend(name, points) {
    const after = series[name] ?? -1, from = points.steps.findIndex((step) => step > after);
    if (from < 0) return;
    const steps = points.steps.slice(from), values = points.values.slice(from);
    series[name] = steps.at(-1);
    if (main?.name === name) {
      main.curve.steps.push(...steps);
      main.curve.values.push(...values);
      if (window.Plotly && node?.data) {
        Plotly.extendTraces(node, { x: [steps], y: [values] }, [node.data.length - 1]).catch(() => {});
        node.figure.data.at(-1).x = main.curve.steps;
        node.figure.data.at(-1).y = main.curve.values;
        node.figure.layout.annotations = notes();
        clearTimeout(extend.timer);
        extend.timer = setTimeout(() => Lab.redraw(node), 400);
      }
    }
    const multiple = document.querySelector(`[data-multiple="${CSS.escape(name)}"]`);
    if (multiple) small(multiple, steps, values);
    const plot = document.querySelector(`[data-metric="${CSS.escape(name)}"]`);
    if (plot?.data && window.Plotly) Plotly.extendTraces(plot, { x: [steps], y: [values] }, [0]).catch(() => {});
  }
  const smalls = new Map();
  function small(figure, steps, values) {
    const all = smalls.get(figure) || { x: [], y: [] };
    all.x.push(...steps);
    all.y.push(...values);
    smalls.set(figure, all);
    figure.querySelector("[data-last]").textContent = digits(values.at(-1));
    const stride = Math.ceil(all.y.length / 60), points = all.y.map((value, i) => [all.x[i], value]).filter(([, value], i) => value !== null && (i % stride === 0 || i === all.y.length - 1));
    if (points.length < 2) return;
    const low = Math.min(...points.map((p) => p[1])), high = Math.max(...points.map((p) => p[1]));
    const first = points[0][0], span = (points.at(-1)[0] - first) || 1;
    const path = points.map(([x, v]) => `${(2 + 176 * (x - first) / span).toFixed(1)} ${(2 + 56 * (high > low ? (high - v) / (high - low) : 0.5)).toFixed(1)}`).join(" ");
    let svg = figure.querySelector("svg");
    if (!svg) {
      svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      svg.setAttribute("class", "spark"); svg.setAttribute("viewBox", "0 0 180 60"); svg.setAttribute("aria-hidden", "true");
      const line = document.createElementNS(svg.namespaceURI, "path");
      line.setAttribute("class", "ki"); line.setAttribute("fill", "none"); line.setAttribute("stroke-width", "1.25");
      svg.append(line);
      figure.querySelector(".multiple").append(svg);
    }
    svg.querySelector("path").setAttribute("d", `M${path}`);
    svg.querySelector("circle")?.remove();
  }

  function progress(p) {
    if (!p || p.step === null || p.step === undefined) return;
    const share = p.total ? Math.min(1, p.step / p.total) : null;
    if (share !== null) {
      say("percent", `${(100 * share).toFixed(1)} %`);
      const bar = document.getElementById("run-bar");
      bar.style.setProperty("--v", `${100 * share}%`);
      bar.setAttribute("aria-valuenow", Math.round(100 * share));
      document.title = `${Math.round(100 * share)} % · ${document.title.replace(/^\d+ % · /, "")}`;
    }
    say("step", `${digits(p.step)}${p.total ? ` of ${digits(p.total)}` : ""} ${p.unit || "steps"}`);
    say("message", p.message || "");
    say("left", duration(p.seconds_left));
    say("ends", p.seconds_left === null || p.seconds_left === undefined ? "" : `, ends about ${new Date(Date.now() + 1000 * p.seconds_left).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" })}`);
    say("rate", p.rate ? digits(p.rate, 3) : "–");
    say("unit", p.unit || "steps");
  }
  const dreams = document.getElementById("dreams"), log = document.getElementById("log");
  function sample(one) {
    if (!dreams || (dreams.dataset.prompt !== undefined && one.prompt !== dreams.dataset.prompt)) return;
    if (dreams.querySelector(`[data-sample="${one.id}"]`) || one.id <= Number(dreams.lastElementChild?.dataset.sample || 0)) return;
    dreams.querySelectorAll(".forming").forEach((item) => { item.className = ""; item.querySelector(".now").className = "dim"; });
    const item = document.createElement("li"), step = document.createElement("span"), text = document.createElement("p"), prompt = document.createElement("mark");
    item.dataset.sample = one.id;
    item.className = "forming";
    step.className = "now";
    step.textContent = `step ${digits(one.step)}`;
    text.className = "pre";
    text.dir = "auto";
    prompt.textContent = one.prompt;
    text.append(prompt, `${one.prompt ? " " : ""}${one.text}`);
    item.append(step, text);
    dreams.append(item);
    const most = Number(dreams.dataset.max || 0);
    while (most && dreams.children.length > most) dreams.firstElementChild.remove();
    document.getElementById("dreams-section")?.removeAttribute("hidden");
  }
  function line(one) {
    if (!log || one.id <= Number(log.lastElementChild?.dataset.line || 0)) return;
    const follow = log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
    const item = document.createElement("span");
    item.dataset.line = one.id;
    if (one.level === "error") item.className = "fail";
    item.textContent = `${new Date(one.time).toLocaleTimeString("en-GB")} ${one.message}\n`;
    if (!log.lastElementChild?.dataset.line) log.replaceChildren();
    log.append(item);
    while (log.children.length > 2000) log.firstElementChild.remove();
    if (follow) log.scrollTop = log.scrollHeight;
  }
  if (log) log.scrollTop = log.scrollHeight;
  if (main) series[main.name] = main.curve.steps.at(-1) ?? -1;
  document.querySelectorAll("[data-metric]").forEach((plot) => { series[plot.dataset.metric] = plot.data?.[0].x.at(-1) ?? -1; });

  // The end of a run changes what stands on its page, so the page is fetched anew; so does its beginning.
  const said = document.getElementById("run-said");
  let leaving = false;
  function anew(words) {
    if (leaving) return;
    leaving = true;
    said.textContent = words;
    setTimeout(() => location.reload(), 700);
  }
  const lost = document.getElementById("run-lost");
  let lostTimer;
  const stream = new EventSource(`/api/v1/runs/${root.dataset.run}/events`);
  stream.onopen = () => { clearTimeout(lostTimer); lost.hidden = true; };
  stream.onerror = () => { clearTimeout(lostTimer); lostTimer = setTimeout(() => { if (!leaving) lost.hidden = false; }, 5000); };
  const on = (name, does) => stream.addEventListener(name, (event) => does(JSON.parse(event.data)));
  const shown = root.dataset.status;
  on("status", (now) => {
    root.dataset.status = now.status;
    const began = now.status !== shown && ["succeeded", "failed", "cancelled"].includes(now.status);
    if (began) { stream.close(); anew(`Run ${now.id} ${now.status}`); }
    else if (shown === "queued" && now.status !== "waiting" && now.status !== "queued" && now.status !== "starting") { stream.close(); anew(`Run ${now.id} is running`); }
  });
  on("progress", progress);
  on("metrics", (all) => {
    for (const [name, points] of Object.entries(all)) extend(name, points);
    const first = !main && !leaving && document.querySelector(".tabs [aria-current]")?.textContent.trim() === "Overview";
    if (first && Object.values(all).some((points) => points.steps.length > 1)) { stream.close(); anew("First measurements"); }
  });
  let lastSample = Number(root.dataset.lastSample);
  on("samples", (all) => {
    const n = all.filter((one) => one.id > lastSample).length;
    lastSample = Math.max(lastSample, ...all.map((one) => one.id));
    document.querySelectorAll("[data-count=samples]").forEach((at) => { at.textContent = Number(at.textContent) + n; });
    all.forEach(sample);
  });
  on("log", (all) => all.forEach(line));
  on("restarted", () => { stream.close(); anew("The run went on from an earlier step"); });
  // Parts that the stream does not describe whole are taken from a fresh copy of the page.
  async function freshen(id) {
    const here = document.getElementById(id);
    const answer = here && !document.hidden ? await fetch(location.href).catch(() => null) : null;
    if (!answer?.ok) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById(id);
    if (!fresh || fresh.innerHTML === here.innerHTML) return;
    here.replaceWith(document.importNode(fresh, true));
    if (window.Plotly) Lab.drawAll(document.getElementById(id));
  }
  // A part that stands on some metrics says by which names they begin.
  on("metrics", (all) => document.querySelectorAll("[data-fresh]").forEach((part) => { if (Object.keys(all).some((name) => name.startsWith(part.dataset.fresh))) freshen(part.id); }));
  if (document.getElementById("shards")) setInterval(() => freshen("shards"), 2500);
  on("figures", (all) => {
    const titles = [...document.querySelectorAll("#figures h2")].map((heading) => heading.textContent);
    if (all.some((one) => !titles.includes(one.title) || one.content.columns)) freshen("figures");
    for (const one of all) {
      const section = [...document.querySelectorAll("#figures > section")].find((part) => part.querySelector("h2").textContent === one.title);
      const plot = section?.querySelector(".plotly");
      if (plot?.figure && one.content.data && window.Plotly) Lab.plot(plot, one.content.data, one.content.layout || {});
      const finding = section?.querySelector("header + p");
      if (finding && one.finding) finding.textContent = one.finding;
    }
  });
  on("end", () => { stream.close(); if (root.hasAttribute("data-live")) anew("The run has ended"); });
  addEventListener("pagehide", () => stream.close());
  const took = field("took");
  if (took?.dataset.started) setInterval(() => { took.textContent = duration((Date.now() - Date.parse(took.dataset.started)) / 1000); }, 1000);
})();
