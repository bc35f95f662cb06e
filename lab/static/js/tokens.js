// Pointing at a token fills the line below it; nothing on the page moves. The tokens come from the server and
// are replaced while somebody types, so the listeners stand on the document.
(() => {
  const field = (name) => document.querySelector(`[data-f=${name}]`);
  const box = () => document.querySelector("[data-toks]");
  const tokens = () => [...(box()?.querySelectorAll(".tok") || [])];
  let mode = "text";

  function inspect(token) {
    if (!token) return;
    for (const other of tokens()) { other.classList.toggle("on", other === token); other.tabIndex = other === token ? 0 : -1; }
    field("text").textContent = `“${token.dataset.text ?? token.textContent}”`;
    field("id").textContent = token.dataset.id;
    field("bytes").textContent = token.dataset.bytes;
  }
  function show() {
    for (const token of tokens()) {
      token.dataset.text ??= token.textContent;
      token.textContent = mode === "text" ? token.dataset.text : `${token.dataset[mode]} `;
    }
  }
  function arrived() {
    if (!box()) return;
    show();
    const { n, bytes, ratio } = box().dataset;
    document.querySelector("#count [data-n]").textContent = `${n} token${n === "1" ? "" : "s"}`;
    document.querySelector("#count [data-n-bytes]").textContent = bytes;
    document.querySelector("#count [data-ratio]").textContent = ratio;
    inspect(tokens()[Math.min(6, tokens().length - 1)]);
  }

  for (const name of ["pointerover", "focusin"]) document.addEventListener(name, (event) => {
    const token = event.target.closest?.("[data-toks] .tok");
    if (token) inspect(token);
  });
  document.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key], token = event.target.closest?.("[data-toks] .tok");
    if (!by || !token) return;
    event.preventDefault();
    const all = tokens();
    all[Math.max(0, Math.min(all.length - 1, all.indexOf(token) + by))].focus();
  });
  document.querySelector("[data-show]")?.addEventListener("click", (event) => {
    const button = event.target.closest("[data-mode]");
    if (!button) return;
    mode = button.dataset.mode;
    for (const other of event.currentTarget.children) other.setAttribute("aria-pressed", String(other === button));
    show();
  });
  document.addEventListener("click", (event) => {
    const sample = event.target.closest("[data-try]");
    if (!sample) return;
    const area = document.getElementById("t");
    area.value = sample.dataset.try;
    area.dispatchEvent(new Event("input", { bubbles: true }));
  });

  // Fields outside of the form belong to it by their `form` attribute, but their events do not reach it.
  document.addEventListener("input", (event) => {
    if (event.target.id === "step") {
      document.querySelectorAll(".mrow").forEach((row) => row.classList.toggle("later", Number(row.dataset.step) > Number(event.target.value)));
    } else if (event.target.getAttribute("form") === "try") {
      document.getElementById("try").dispatchEvent(new Event("input", { bubbles: false }));
    }
  });
  document.addEventListener("htmx:oobAfterSwap", (event) => { if (event.detail.target?.id === "tokens") arrived(); });
  document.addEventListener("htmx:afterSettle", arrived);
  arrived();
})();
