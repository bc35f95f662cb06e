// A field whose hint became an error is marked invalid, and back; the chosen snippet stays chosen after a swap.
// A field that names a model offers those that the engine serves, asked for when somebody comes to it.
(() => {
  let view = "";
  document.addEventListener("click", (event) => { const chosen = event.target.closest("[data-views=snippet] [data-view]"); if (chosen) view = chosen.dataset.view; });
  function mark() {
    for (const hint of document.querySelectorAll("#new-run [id$='-h']")) {
      const field = document.getElementById(hint.id.slice(0, -2));
      if (hint.classList.contains("error")) field?.setAttribute("aria-invalid", "true");
      else field?.removeAttribute("aria-invalid");
    }
    document.querySelector(`[data-views=snippet] [data-view="${view || "Shell"}"]`)?.click();
  }
  document.addEventListener("focusin", async ({ target }) => {
    if (target.dataset?.suggest !== "models" || !target.list || target.list.options.length) return;
    const answer = await fetch("/v1/models").catch(() => null);
    const models = answer?.ok ? (await answer.json()).data : [];
    target.list.replaceChildren(...models.map(({ id, backend }) => {
      const option = document.createElement("option");
      [option.value, option.label] = [id, `${id} (${backend})`];
      return option;
    }));
  });
  document.addEventListener("htmx:oobAfterSwap", () => { clearTimeout(mark.timer); mark.timer = setTimeout(mark, 20); });
  document.querySelector("#new-run [aria-invalid]")?.focus();
})();
