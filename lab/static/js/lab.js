// On every page: toasts that leave by themselves, keys, and `data-key` for buttons and links.
(() => {
  const researcher = () => document.body.hasAttribute("data-researcher");
  const inField = (target) => target.closest?.("input:not([type=checkbox], [type=radio]), textarea, select, [contenteditable], dialog");
  // Whether single letters and digits are keys: a switch in the help and in the labelling's instructions, kept in this browser.
  const letters = () => { try { return localStorage.getItem("keys") !== "off"; } catch { return true; } };
  // The events of a streamed answer as they come: what each is called, and its data as text.
  async function* events(body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = ""; ;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const of = (field) => part.split("\n").filter((line) => line.startsWith(`${field}:`)).map((line) => line.slice(field.length + 1).trim()).join("\n");
        if (of("data")) yield { event: of("event"), data: of("data") };
      }
    }
  }
  const Lab = (window.Lab = { inField, letters, events });

  // Toasts stay 8 s, and as long as somebody points at them.
  function arm(toast) {
    let timer = setTimeout(() => toast.remove(), 8000);
    toast.addEventListener("pointerenter", () => clearTimeout(timer));
    toast.addEventListener("focusin", () => clearTimeout(timer));
    toast.addEventListener("pointerleave", () => { timer = setTimeout(() => toast.remove(), 4000); });
  }
  Lab.toast = (text, address) => {
    const toast = document.createElement("div"), words = document.createElement("span");
    toast.className = "toast";
    words.textContent = text;
    toast.append(words);
    if (address) {
      const link = document.createElement("a");
      link.href = address;
      link.textContent = "Open";
      toast.append(link);
    }
    document.getElementById("toasts").append(toast);
    arm(toast);
  };
  document.querySelectorAll(".toast").forEach(arm);

  document.addEventListener("click", (event) => {
    event.target.closest("[data-dismiss]")?.closest(".toast").remove();
    const copy = event.target.closest("[data-copy]");
    if (copy) {
      const source = copy.dataset.copy ? document.querySelector(copy.dataset.copy) : null;
      navigator.clipboard?.writeText(source ? source.textContent : location.href).then(() => Lab.toast("Copied"));
    }
    const view = event.target.closest("[data-views] [data-view]");
    if (view) {
      // A segmented control: one of several views of the same thing is shown.
      const group = view.closest("[data-views]");
      group.querySelectorAll("[data-view]").forEach((button) => button.setAttribute("aria-pressed", button === view));
      document.querySelectorAll(`[data-view-of="${group.dataset.views}"]`).forEach((part) => { part.hidden = part.dataset.name !== view.dataset.view; });
    }
  });

  // Without script all views show; with it, the one that is pressed.
  const settle = (root) => root.querySelectorAll?.("[data-views] [aria-pressed=true]").forEach((button) => button.click());
  settle(document);

  // Keys. Single letters work outside fields only, and while the switch says so.
  document.querySelectorAll("[data-letters]").forEach((box) => { box.checked = letters(); });
  document.addEventListener("change", (event) => {
    if (!event.target.matches("[data-letters]")) return;
    try { localStorage.setItem("keys", event.target.checked ? "on" : "off"); } catch { /* not remembered */ }
  });
  const places = { h: "/", r: "/runs", p: "/playground", l: "/labeling", d: "/datasets", c: "/checkpoints", a: "/arena", t: "/tokenizers", s: "/settings" };
  let afterG = 0;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || inField(event.target)) return;
    if (event.key === "?") { event.preventDefault(); return help(); }
    if (!letters()) return;
    if (researcher() && event.timeStamp - afterG < 1500 && places[event.key]) { event.preventDefault(); location.href = places[event.key]; return; }
    afterG = event.key === "g" ? event.timeStamp : 0;
    if (event.key === "/") {
      const field = document.querySelector("input[type=search]");
      if (field) { event.preventDefault(); field.focus(); }
      return;
    }
    const button = [...document.querySelectorAll("[data-key]")].find((one) => one.dataset.key === event.key && one.offsetParent);
    if (button) { event.preventDefault(); button.click(); }
    else if (event.key === "n" && researcher()) location.href = "/runs/new";
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) event.target.closest("form[data-ctrl-enter]")?.requestSubmit();
  });

  function help() {
    let dialog = document.getElementById("keys-help");
    if (!dialog) {
      const all = [["Ctrl K", "jump anywhere"], ["g h", "home"], ["g r", "runs"], ["g p", "playground"], ["g l", "labelling"], ["g a", "arena"], ["n", "new run"], ["/", "filter"], ["Esc", "close or clear"]];
      const here = [...document.querySelectorAll("[data-key]")].filter((one) => one.offsetParent).map((one) => [one.dataset.key, one.dataset.keyName || one.firstChild.textContent.trim()]);
      document.querySelectorAll("[data-key-help]").forEach((one) => here.push(...one.dataset.keyHelp.split(";").map((pair) => pair.split("="))));
      dialog = document.createElement("dialog");
      dialog.id = "keys-help";
      dialog.className = "palette instructions";
      dialog.setAttribute("aria-labelledby", "keys-title");
      const title = document.createElement("h2");
      title.id = "keys-title";
      title.textContent = "Keys of this page";
      const list = document.createElement("dl");
      list.className = "facts keys-list";
      const told = new Set();
      for (const [key, what] of [...here, ...(researcher() ? all : [])]) {
        if (told.has(key)) continue;
        told.add(key);
        const dt = document.createElement("dt"), dd = document.createElement("dd");
        key.split(" ").forEach((part) => { const kbd = document.createElement("kbd"); kbd.textContent = part; dt.append(kbd, " "); });
        dd.textContent = what;
        list.append(dt, dd);
      }
      const label = document.createElement("label"), box = document.createElement("input");
      label.className = "check";
      box.type = "checkbox";
      box.checked = letters();
      box.setAttribute("data-letters", "");
      label.append(box, " single letters and digits are keys");
      const close = document.createElement("form"), button = document.createElement("button");
      close.method = "dialog";
      button.className = "btn";
      button.textContent = "Close";
      close.append(button);
      dialog.append(title, list, label, close);
      document.body.append(dialog);
    }
    dialog.showModal();
  }

  // After a swap the focus stays on the element of the same id.
  let focused = "";
  document.addEventListener("htmx:beforeSwap", () => { focused = document.activeElement?.id || ""; });
  document.addEventListener("htmx:afterSwap", () => { if (focused && document.activeElement === document.body) document.getElementById(focused)?.focus(); });
  document.addEventListener("htmx:sendError", () => Lab.toast("The lab does not answer. What is on this page stays as it was."));
})();
