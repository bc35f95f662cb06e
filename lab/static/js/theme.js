// The stored choice of light or dark, read before the first paint. Without a choice the system decides.
(() => {
  const root = document.documentElement;
  try {
    const stored = localStorage.getItem("theme");
    if (stored === "light" || stored === "dark") root.dataset.theme = stored;
  } catch { /* storage is off: the system's choice stands */ }
  document.addEventListener("click", (event) => {
    if (!event.target.closest("[data-theme-switch]")) return;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    try { localStorage.setItem("theme", root.dataset.theme); } catch { /* not remembered */ }
    document.dispatchEvent(new CustomEvent("themechange"));
  });
})();
