// One crosshair for all curves: the table beside them holds the values at its step. Without script, at the end.
(() => {
  document.querySelector("[data-submit]")?.addEventListener("change", (event) => event.target.form.requestSubmit());
  const label = document.getElementById("only-label"), only = document.getElementById("only"), config = document.getElementById("config");
  if (label) {
    label.hidden = false;
    const show = () => config.querySelectorAll(".same").forEach((row) => { row.hidden = only.checked; });
    only.addEventListener("change", show);
    show();
  }
  const plot = document.getElementById("compare-plot"), table = document.getElementById("values"), heading = document.getElementById("at-step");
  if (!plot?.on) return;
  const rows = [...table.tBodies[0].rows], ended = rows.map((row) => [...row.cells].map((cell) => cell.textContent));
  const digits = (value) => (value === null ? "" : Math.abs(value) >= 1e-3 || value === 0 ? Number(value.toPrecision(4)).toLocaleString("en", { maximumFractionDigits: 4 }) : value.toExponential(1));
  function at(trace, step) {
    // The last point at or before the step; nothing beyond the curve's end.
    const x = trace.x, y = trace.y;
    if (!x.length || step > x.at(-1)) return undefined;
    let low = 0, high = x.length - 1;
    while (low < high) { const middle = (low + high + 1) >> 1; if (x[middle] <= step) low = middle; else high = middle - 1; }
    return x[low] <= step ? y[low] : undefined;
  }
  plot.on("plotly_hover", (event) => {
    const step = event.points[0].x, values = plot.figure.data.map((trace) => at(trace, step));
    const standard = values[rows.findIndex((row) => row.hasAttribute("data-reference"))];
    heading.textContent = `At step ${step.toLocaleString("en")}`;
    rows.forEach((row, i) => {
      const value = values[i], trace = plot.figure.data[i];
      row.cells[1].textContent = value === undefined ? (step > trace.x.at(-1) ? `ended at ${trace.x.at(-1).toLocaleString("en")}` : "") : digits(value);
      if (!row.hasAttribute("data-reference")) row.cells[3].textContent = value == null || standard == null ? "" : `${value > standard ? "+" : ""}${digits(value - standard)}`.replace("-", "−");
    });
  });
  plot.on("plotly_unhover", () => {
    heading.textContent = "At the end";
    rows.forEach((row, i) => [...row.cells].slice(1).forEach((cell, j) => { cell.textContent = ended[i][j + 1]; }));
  });
})();
