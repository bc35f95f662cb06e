// Plotly with our template. `Lab.plot(node, data, layout)` draws; every node that it drew follows the theme.
// `<div class="plotly" data-figure="ID">` is drawn by itself from the JSON script of that id: {data, layout}.
(() => {
  const drawn = new Set();
  const dark = () => document.documentElement.dataset.theme === "dark" || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  const template = () => window.PLOT_TEMPLATE[dark() ? "dark" : "light"];
  const config = { displaylogo: false, responsive: true, displayModeBar: "hover", modeBarButtons: [["zoom2d", "resetScale2d", "toImage"]] };

  // Colours by name of our tokens, so that a figure from the server follows the theme: "--c1".
  const probe = document.createElement("span");
  function color(name) {
    document.body.append(probe);
    probe.style.color = `var(${name})`;
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  }
  function painted(value) {
    if (typeof value === "string") return /^--[a-z][a-z0-9-]*$/.test(value) ? color(value) : value;
    if (Array.isArray(value)) return value.length > 200 ? value : value.map(painted);
    if (value && typeof value === "object" && !ArrayBuffer.isView(value)) return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, painted(inner)]));
    return value;
  }
  // Plotly reads tags in names and categories, which models and people wrote: they are text.
  const plain = (text) => (typeof text === "string" ? text.replaceAll("&", "&amp;").replaceAll("<", "&lt;") : text);
  function untagged(trace) {
    const found = { ...trace };
    if (found.name) found.name = plain(found.name);
    for (const axis of ["x", "y"]) if (Array.isArray(found[axis]) && typeof found[axis][0] === "string") found[axis] = found[axis].map(plain);
    return found;
  }
  // Each line carries its name at its end; a legend is only for what has no end or for more than eight.
  function named(data, layout) {
    if (layout.annotations || data.length < 2) return layout;
    const lines = data.filter((trace) => (trace.type || "scatter") === "scatter" && (trace.mode || "lines").includes("lines") && trace.x?.length);
    if (lines.length !== data.length || lines.length > 8) return { showlegend: true, ...layout };
    const ends = lines.map((trace) => ({ trace, i: trace.y.findLastIndex((value) => value !== null) })).filter(({ trace, i }) => i >= 0 && trace.name)
      .map(({ trace, i }) => ({ x: trace.x[i], y: trace.y[i], yref: trace.yaxis || "y", text: plain(trace.name.slice(0, 28)), xanchor: "left", xshift: 6 }));
    return { ...layout, margin: { l: 52, r: 24 + 7 * Math.max(4, ...ends.map((end) => end.text.length)), t: 10, b: 40, ...layout.margin }, annotations: ends };
  }
  // Names at the ends of lines that would overlap are moved apart, the lowest first; each panel for itself.
  function apart(layout, data, height) {
    for (const axis of new Set(data.map((trace) => trace.yaxis || "y"))) apartOn(axis, layout, data.filter((trace) => (trace.yaxis || "y") === axis), height);
  }
  function apartOn(axis, layout, data, height) {
    const own = layout[axis.replace("y", "yaxis")] || {}, [bottom, top] = own.domain || [0, 1];
    const ends = (layout.annotations || []).filter((one) => one.xshift === 6 && (one.yref || "y") === axis && Number.isFinite(one.y));
    const values = data.flatMap((trace) => (Array.isArray(trace.y) ? trace.y : [])).concat(own.range || []).filter(Number.isFinite);
    if (ends.length < 2 || !values.length || own.type === "log") return;
    const low = Math.min(...values), pixels = Math.max(60, (height - 60) * (top - bottom)) / ((Math.max(...values) - low) || 1) / 1.1;
    const xs = data.flatMap((trace) => trace.x || []).filter(Number.isFinite), reach = (Math.max(...xs) - Math.min(...xs)) / 12 || 1;
    ends.sort((a, b) => a.y - b.y).forEach((one, i) => {
      one.yshift = 0;
      for (const other of ends.slice(0, i)) if (Math.abs(other.x - one.x) < reach) one.yshift = Math.max(one.yshift, (other.y - one.y) * pixels + other.yshift + 14);
    });
  }
  const Lab = (window.Lab ??= {});
  Lab.color = color;
  Lab.plot = (node, data, layout = {}) => {
    node.figure = { data, layout };
    drawn.add(node);
    // With Plotly's buttons inside it is no longer one picture.
    if (node.getAttribute("role") === "img") node.setAttribute("role", "figure");
    const whole = named(data, layout);
    apart(whole, data, layout.height || node.clientHeight || 310);
    return Plotly.react(node, data.map(untagged).map(painted), { ...painted(whole), template: template(), height: layout.height || node.clientHeight || 310 }, config);
  };
  Lab.redraw = (node) => Lab.plot(node, node.figure.data, node.figure.layout);
  const again = () => { for (const node of drawn) if (node.isConnected) Lab.redraw(node); else drawn.delete(node); };
  document.addEventListener("themechange", again);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);

  function drawAll(root) {
    root.querySelectorAll?.("[data-figure]").forEach((node) => {
      if (node.figure) return;
      const source = document.getElementById(node.dataset.figure);
      if (!source) return;
      const { data, layout } = JSON.parse(source.textContent);
      Lab.plot(node, data || [], layout || {});
    });
  }
  Lab.drawAll = drawAll;
  drawAll(document);
  document.addEventListener("htmx:afterSettle", (event) => drawAll(event.target));
})();
