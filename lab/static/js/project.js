// Small things of a project's and a checkpoint's page: print, and disputes that stay open through updates.
(() => {
  document.addEventListener("click", (event) => { if (event.target.closest("[data-print]")) print(); });
  let open = [];
  document.addEventListener("htmx:beforeSwap", () => { open = [...document.querySelectorAll("details.fold[open]")].map((one) => one.id); });
  document.addEventListener("htmx:afterSwap", () => open.forEach((id) => document.getElementById(id)?.setAttribute("open", "")));
})();
