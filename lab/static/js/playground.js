// Models that speak: streamed from /v1 as tokens with log-probabilities, shaded by surprise. A token opens its
// rivals; choosing one makes a branch. All text is text: nothing of a model or a person becomes markup.
(() => {
  const source = document.getElementById("play-data");
  if (!source) return;
  const data = JSON.parse(source.textContent), models = new Map(data.models.map((model) => [model.id, model]));
  const form = document.getElementById("play"), columns = document.getElementById("columns"), tabs = document.getElementById("columns-tabs");
  const rivals = document.getElementById("rivals"), find = document.getElementById("find"), found = document.getElementById("found");
  const tree = { box: document.getElementById("tree"), drawn: document.getElementById("tree-drawn"), list: document.getElementById("tree-list") };
  const [go, seeds, stop, fresh] = ["go", "seeds", "stop", "new"].map((name) => form.querySelector(`[data-${name}]`));
  const MORE = ["top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"];
  const N_RIVALS = 8, STEPS = [0.5, 1.2, 2.2, 3.5, 5.5];
  let mode = "completion", sides = [], active = 0, opened = null;

  const make = (name, className, text) => {
    const node = document.createElement(name);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  // Servers elsewhere tell no ids: there a token is how it is spelled.
  const alike = (one, other) => (one.id === null || other.id === null ? one.text === other.text : one.id === other.id);
  const bits = (token) => (token.logprob === null ? 0 : -token.logprob / Math.LN2);
  const level = (token) => STEPS.filter((step) => bits(token) >= step).length;
  const percent = (logprob) => { const share = 100 * Math.exp(logprob); return `${share >= 10 ? share.toFixed(0) : share >= 0.1 ? share.toFixed(1) : "<0.1"} %`; };
  const seen = (text) => text.replace(/\n/g, "↵");
  const say = (text) => { document.getElementById("play-said").textContent = text; };
  // What is folded away is sent only where it says something: not every server knows it.
  const settings = () => {
    const fields = form.elements, said = MORE.filter((name) => fields[name].value !== ""), stops = fields.stop.value.split("\n").filter(Boolean).map((text) => text.replaceAll("\\n", "\n"));
    return { ...Object.fromEntries(["temperature", "top_p", "max_tokens", "seed", ...said].map((name) => [name, Number(fields[name].value)])), ...(stops.length ? { stop: stops } : {}) };
  };

  // One side is one model: its tree of continuations, in a chat also the turns before.
  function side(id, i) {
    const model = models.get(id), box = make("section", "sec side"), head = make("header"), title = make("h2"), state = make("span", "state");
    state.append(make("span", `stone ${model.stone}`, model.number), make("span", "", model.name));
    state.lastChild.dir = "auto";
    title.append(state, " ", make("span", "tag", model.role));
    const told = make("p", "push"), turns = make("div", "turns"), out = make("p", "out");
    out.dir = "auto";
    out.setAttribute("role", "group");
    out.setAttribute("aria-label", `What ${model.name} says`);
    head.append(title, told);
    box.append(head, turns, out);
    return { id, i, model, box, told, turns, out, tree: new Lab.Tree(), prompt: "", promptIds: null, history: [], control: null, began: 0, n: 0, pending: [] };
  }

  function build() {
    stopAll();
    const ids = [form.elements.model.value, form.elements.second.value].filter((id) => models.has(id));
    sides = ids.map(side);
    active = 0;
    for (const one of sides) one.box.classList.add(sides.length > 1 ? "c6" : "c12");
    columns.replaceChildren(...sides.map((one) => one.box));
    tabs.hidden = sides.length < 2;
    tabs.replaceChildren(...sides.map((one, i) => { const button = make("button", "", one.model.name); button.type = "button"; button.dataset.side = i; return button; }));
    for (const one of sides) draw(one);
    choose(0);
  }
  function choose(i) {
    active = i;
    [...tabs.children].forEach((button, k) => button.toggleAttribute("aria-current", k === i));
    sides.forEach((one, k) => one.box.classList.toggle("behind", k !== i));
    drawTree();
  }
  function setMode(next) {
    mode = next;
    form.querySelectorAll("[data-mode]").forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.mode === mode)));
    go.firstChild.textContent = mode === "chat" ? "Send " : "Continue ";
    fresh.hidden = mode !== "chat";
    seeds.hidden = mode === "chat";
    form.elements.prompt.placeholder = mode === "chat" ? "Ask something" : "Begin a text";
    const bases = sides.filter((one) => one.model.role === "base");
    document.getElementById("mode-note").textContent = mode === "chat" && bases.length ? `${bases.map((one) => one.model.name).join(" and ")} never saw a chat: expect it to ramble.` : "";
  }

  // Drawing what a side says. While it streams, only new tokens are appended, once a frame.
  function draw(one) {
    one.out.replaceChildren();
    one.pending = [];
    if (mode === "completion") one.out.append(make("span", "prompt", one.prompt));
    const path = one.tree.path(), chosen = new Set();
    for (let branch = one.tree.shown; branch; branch = branch.parent) if (branch.parent) chosen.add(branch.at);
    path.forEach((token, place) => one.out.append(spell(token, place, chosen.has(place))));
    if (one.control) one.out.append(make("i", "caret"));
    one.turns.replaceChildren(...one.history.map((turn) => {
      const box = make("div", `turn ${turn.role}`), words = make("p", "pre", turn.content);
      words.dir = "auto";
      box.append(make("span", "dim small", turn.role), words);
      return box;
    }));
    tell(one);
  }
  function spell(token, place, chosen) {
    const node = make("span", `p p${level(token)}`, token.shown);
    node.tabIndex = place ? -1 : 0;
    node.dataset.place = place;
    if (chosen) node.classList.add("chosen");
    node.setAttribute("role", "button");
    node.title = `${bits(token).toFixed(1)} bits`;
    return node;
  }
  function tell(one) {
    const path = one.tree.path(), branch = one.tree.shown, mean = path.length ? path.reduce((sum, token) => sum + bits(token), 0) / path.length : 0;
    one.told.classList.toggle("now", Boolean(one.control));
    one.told.classList.toggle("fail", Boolean(branch?.failed));
    if (branch?.failed) one.told.textContent = branch.failed;
    else if (one.control) one.told.textContent = `streaming, ${Math.round(one.n / Math.max(0.05, (performance.now() - one.began) / 1000))} a second`;
    else if (!path.length) one.told.textContent = branch ? "it ended at once" : "";
    else {
      const ends = { stop: "ended by itself", length: "reached the limit", stopped: "stopped" }[branch.finish] || "";
      const speed = branch.seconds ? ` · ${Math.round(branch.fresh / branch.seconds)} a second` : "";
      one.told.textContent = `${path.length} token${path.length > 1 ? "s" : ""}${speed} · ${mean.toFixed(1)} bits each${ends ? ` · ${ends}` : ""}`;
    }
  }
  function append(one, branch, tokens) {
    branch.tokens.push(...tokens);
    one.n += tokens.length;
    if (one.tree.shown !== branch) return;
    one.pending.push(...tokens);
    if (one.frame) return;
    one.frame = requestAnimationFrame(() => {
      one.frame = 0;
      const caret = one.out.querySelector(".caret"), before = one.tree.path().length - one.pending.length;
      one.pending.splice(0).forEach((token, k) => { const node = spell(token, before + k, false); if (caret) caret.before(node); else one.out.append(node); });
      tell(one);
    });
  }

  // Asking the engine. The first event of a completion with `echo` holds the prompt's own tokens.
  function request(one, branch) {
    const path = one.tree.path(branch), common = { model: one.id, stream: true, ...branch.settings }, scored = one.plain ? {} : { logprobs: true, top_logprobs: N_RIVALS };
    if (mode === "chat") {
      const messages = [...one.history, ...(path.length ? [{ role: "assistant", content: one.tree.text(path) }] : [])];
      return ["/v1/chat/completions", { ...common, messages, ...scored, ...(path.length ? { continue_final_message: true } : {}) }];
    }
    const exact = path.length && one.promptIds && one.model.bos !== null && path.every((token) => token.id !== null);
    const prompt = exact ? [one.model.bos, ...one.promptIds, ...path.map((token) => token.id)] : one.prompt + one.tree.text(path) || (one.model.bos === null ? "\n" : [one.model.bos]);
    return ["/v1/completions", { ...common, prompt, ...(one.plain ? {} : { logprobs: N_RIVALS }), ...(one.model.echoes && !path.length && typeof prompt === "string" ? { echo: true } : {}) }];
  }
  const readToken = (entry) => {
    const text = entry.bytes ? new TextDecoder().decode(Uint8Array.from(entry.bytes)) : entry.token;
    const top = (entry.top_logprobs || []).map((rival) => ({ text: rival.token, bytes: rival.bytes, logprob: rival.logprob, id: rival.id }));
    return { id: entry.id, text: entry.token, bytes: entry.bytes, logprob: entry.logprob, top, shown: text.includes("\ufffd") ? `‹${entry.bytes.map((byte) => byte.toString(16).padStart(2, "0")).join(" ")}›` : text };
  };

  async function speak(one, branch) {
    one.control?.abort();
    const control = (one.control = new AbortController()), began = performance.now(), fresh = branch.tokens.length;
    one.began = began;
    one.n = 0;
    let [address, body] = request(one, branch);
    let echo = body.echo === true && one.prompt.length > 0;
    draw(one);
    waiting();
    try {
      const ask = () => fetch(address, { method: "POST", signal: control.signal, headers: { "Content-Type": "application/json", Accept: "text/event-stream" }, body: JSON.stringify(body) });
      let answer = await ask();
      if (answer.status === 400 && !one.plain && /logprobs/i.test(await answer.clone().text())) {
        // This server tells no probabilities: its words come without shades and rivals.
        one.plain = true;
        [address, body] = request(one, branch);
        answer = await ask();
      }
      if (!answer.ok) { const told = await answer.json().catch(() => ({})); throw new Error(told.error?.message || told.detail || `The engine answered ${answer.status}.`); }
      for await (const { data: text } of Lab.events(answer.body)) {
        if (text === "[DONE]") continue;
        const event = JSON.parse(text);
        if (event.error) throw new Error(event.error.message || "The engine broke off.");
        const choice = event.choices?.[0];
        if (!choice) continue;
        const tokens = (choice.logprobs?.content || []).map(readToken), words = choice.delta?.content || choice.text;
        if (!tokens.length && words && !echo) tokens.push({ id: null, text: words, bytes: null, logprob: null, top: [], shown: words });
        if (echo) { one.promptIds = tokens.some((token) => token.id === null) ? null : tokens.map((token) => token.id); echo = false; } else if (tokens.length) append(one, branch, tokens);
        if (choice.finish_reason) branch.finish = choice.finish_reason;
      }
    } catch (error) {
      if (error.name === "AbortError") branch.finish = "stopped";
      else branch.failed = error instanceof TypeError ? "The lab does not answer. Try again." : error.message;
    }
    branch.seconds = (performance.now() - began) / 1000;
    branch.fresh = branch.tokens.length - fresh;
    if (one.control === control) one.control = null;
    cancelAnimationFrame(one.frame);
    one.frame = 0;
    draw(one);
    drawTree();
    waiting();
    say(`${one.model.name}: ${one.tree.text(branch.tokens)}`);
  }
  const waiting = () => { const busy = sides.some((one) => one.control); stop.hidden = !busy; go.setAttribute("aria-disabled", String(busy)); };
  const stopAll = () => sides.forEach((one) => one.control?.abort());

  function remember() {
    const query = new URLSearchParams({ mode, prompt: form.elements.prompt.value, ...settings() });
    if (query.has("stop")) query.set("stop", form.elements.stop.value);
    for (const one of sides) query.append("model", one.id);
    const link = `?${query}`;
    history.replaceState(null, "", link.length < 4000 ? link : location.pathname);
  }
  async function begin(n = 1) {
    if (go.getAttribute("aria-disabled") === "true" || !form.reportValidity()) return;
    const prompt = form.elements.prompt.value;
    if (mode === "chat" && !prompt.trim()) return form.elements.prompt.focus();
    closeRivals();
    remember();
    const chosen = settings();
    const all = sides.map(async (one) => {
      if (mode === "chat") {
        const said = one.tree.text(one.tree.path());
        if (said) one.history.push({ role: "assistant", content: said });
        one.history.push({ role: "user", content: prompt });
        one.tree = new Lab.Tree();
      } else if (one.prompt !== prompt || !one.tree.branches.length) {
        one.tree = new Lab.Tree();
        one.prompt = prompt;
        one.promptIds = null;
      }
      for (let k = 0; k < n; k += 1) {
        const branch = one.tree.add(null, 0);
        branch.settings = { ...chosen, seed: chosen.seed + k };
        await speak(one, branch);
        if (branch.finish === "stopped" || branch.failed) break;
      }
    });
    if (mode === "chat") { form.elements.prompt.value = ""; grow(); }
    await Promise.all(all);
    return undefined;
  }

  // Rivals of one token.
  function openRivals(one, node) {
    const place = Number(node.dataset.place), path = one.tree.path(), token = path[place];
    if (token.logprob === null) return;
    closeRivals();
    opened = { one, node, place };
    node.classList.add("on");
    const known = token.top.some((rival) => alike(rival, token)), list = known ? token.top : [...token.top, { ...token }];
    const at = list.findIndex((rival) => alike(rival, token)), head = make("p", "row spread small"), rank = known ? `number ${at + 1}` : `below the first ${token.top.length}`;
    const title = make("b", "", `Instead of “${seen(token.text)}”`);
    title.dir = "auto";
    head.append(title, make("span", "dim", `${percent(token.logprob)}, ${rank}${one.model.vocab_size ? ` of ${one.model.vocab_size.toLocaleString("en-GB")}` : ""}`));
    const most = Math.max(...list.map((rival) => rival.logprob)), choices = make("ol");
    list.forEach((rival, k) => {
      const item = make("li"), button = make("button"), bar = make("span", "pbar"), fill = make("i");
      if (alike(rival, token)) item.setAttribute("aria-current", "true");
      button.type = "button";
      fill.style.inlineSize = `${100 * Math.exp(rival.logprob - most)}%`;
      bar.append(fill);
      button.append(make("kbd", "", k + 1), make("span", "mono", seen(rival.text)), bar, make("span", "num", percent(rival.logprob)));
      button.addEventListener("click", () => branchFrom(one, place, rival));
      item.append(button);
      choices.append(item);
    });
    const covered = list.reduce((sum, rival) => sum + Math.exp(rival.logprob), 0);
    rivals.replaceChildren(head, choices, make("p", "small dim", `Choose one to branch from here. Logprob ${token.logprob.toFixed(2).replace("-", "−")}, ${bits(token).toFixed(1)} bits; these hold ${Math.round(100 * covered)} % of the guesses.`));
    rivals.hidden = false;
    const box = node.getBoundingClientRect(), room = document.documentElement.clientWidth;
    rivals.style.insetBlockStart = `${scrollY + box.bottom + 8}px`;
    rivals.style.insetInlineStart = `${scrollX + Math.max(12, Math.min(box.left - 40, room - rivals.offsetWidth - 12))}px`;
    choices.querySelector('[aria-current] button')?.focus({ preventScroll: true });
  }
  function closeRivals(focus = false) {
    if (!opened) return;
    opened.node.classList.remove("on");
    if (focus) opened.node.focus();
    rivals.hidden = true;
    opened = null;
  }
  function branchFrom(one, place, rival) {
    const shown = one.tree.shown, token = one.tree.path()[place];
    closeRivals();
    if (alike(rival, token)) return undefined;
    one.control?.abort();
    // A point that an ancestor wrote belongs to that ancestor.
    let parent = shown;
    while (parent.parent && place < parent.at) parent = parent.parent;
    const same = one.tree.branches.find((branch) => branch.parent === parent && branch.at === place && branch.tokens[0] && alike(branch.tokens[0], rival));
    if (same) return open(one, same);
    const ends = rival.bytes === null;
    const branch = one.tree.add(parent, place, ends ? [] : [readToken({ token: rival.text, bytes: rival.bytes, logprob: rival.logprob, id: rival.id, top_logprobs: token.top.map((other) => ({ token: other.text, bytes: other.bytes, logprob: other.logprob, id: other.id })) })]);
    branch.settings = settings();
    choose(one.i);
    if (ends) { branch.finish = "stop"; draw(one); drawTree(); return undefined; }
    return speak(one, branch);
  }
  function open(one, branch) { one.tree.shown = branch; draw(one); drawTree(); }
  function drawTree() {
    const one = sides[active];
    tree.box.hidden = !one || one.tree.branches.length < 2;
    if (tree.box.hidden) return;
    const prompt = mode === "chat" ? one.history.at(-1)?.content || "" : one.prompt;
    tree.drawn.replaceChildren(one.tree.svg(prompt, (branch) => open(one, branch)));
    tree.list.replaceChildren(...one.tree.list((branch) => open(one, branch)));
  }

  // Where a passage was read.
  document.addEventListener("selectionchange", () => {
    const chosen = getSelection(), text = chosen.toString().trim(), within = chosen.anchorNode?.parentElement?.closest(".out");
    find.hidden = !within || text.length < 8;
    if (find.hidden) return;
    const box = chosen.getRangeAt(0).getBoundingClientRect();
    find.style.insetBlockStart = `${scrollY + box.bottom + 6}px`;
    find.style.insetInlineStart = `${scrollX + Math.max(12, box.left)}px`;
    find.dataset.q = text;
    const side = sides.find((one) => one.out === within);
    find.hidden = !side?.model.read;
    find.dataset.model = side?.id || "";
  });
  find.addEventListener("pointerdown", (event) => event.preventDefault());
  find.addEventListener("click", async () => {
    const { q, model } = find.dataset;
    find.hidden = true;
    found.hidden = false;
    const head = make("header"), title = make("h2", "", `“${q}”`), words = make("p", "", "searching the documents that it was trained on");
    title.dir = "auto";
    head.append(title, words);
    found.replaceChildren(head);
    const answer = await fetch(`${data.search}?${new URLSearchParams({ q, model })}`).catch(() => null), told = await answer?.json().catch(() => null);
    if (!answer?.ok) { words.textContent = told?.detail || "The lab does not answer."; return; }
    const count = told.datasets.reduce((sum, one) => sum + one.count, 0);
    words.textContent = !told.datasets.length ? "it was trained on no dataset of this lab" : count ? `stands in ${count.toLocaleString("en-GB")} row${count > 1 ? "s" : ""} that it was trained on` : "stands nowhere in what it was trained on, word for word";
    for (const one of told.datasets) for (const item of one.items) {
      const line = make("p", "small excerpt"), link = make("a", "", item.title);
      link.href = `${one.url}&q=${encodeURIComponent(told.passage)}`;
      line.dir = "auto";
      line.append(link, " ", `…${item.before}`, make("mark", "", item.passage), `${item.after}…`);
      found.append(line);
    }
  });

  // Hands.
  const grow = () => { const area = form.elements.prompt; area.style.blockSize = "auto"; area.style.blockSize = `${Math.min(280, area.scrollHeight + 2)}px`; };
  form.elements.prompt.addEventListener("input", grow);
  form.addEventListener("submit", (event) => { event.preventDefault(); begin(); });
  form.addEventListener("invalid", (event) => event.target.closest("details")?.setAttribute("open", ""), true);
  form.addEventListener("change", (event) => {
    if (["model", "second"].includes(event.target.name)) { build(); setMode(mode); }
    if (event.target.name === "shade") columns.classList.toggle("plain", !event.target.checked);
  });
  form.addEventListener("click", (event) => {
    const button = event.target.closest("button"), node = event.target.closest(".p");
    if (node && !getSelection().toString()) { const one = sides.find((other) => other.out.contains(node)); choose(one.i); return openRivals(one, node); }
    if (button?.dataset.mode && button.dataset.mode !== mode) { setMode(button.dataset.mode); build(); setMode(mode); }
    else if (button?.dataset.side) choose(Number(button.dataset.side));
    else if (button === seeds) begin(4);
    else if (button === stop) stopAll();
    else if (button === fresh) { build(); form.elements.prompt.focus(); }
    return undefined;
  });
  document.addEventListener("pointerdown", (event) => { if (opened && !event.target.closest("#rivals, .p")) closeRivals(); });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { if (opened) closeRivals(true); else stopAll(); return; }
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); begin(); return; }
    if (opened && event.key >= "1" && event.key <= "9" && Lab.letters()) { const button = rivals.querySelectorAll("li button")[Number(event.key) - 1]; if (button) { event.preventDefault(); button.click(); } return; }
    if (opened && ["ArrowUp", "ArrowDown"].includes(event.key)) {
      event.preventDefault();
      const all = [...rivals.querySelectorAll("li button")], at = all.indexOf(document.activeElement);
      all[(at + (event.key === "ArrowDown" ? 1 : all.length - 1)) % all.length].focus();
      return;
    }
    const node = event.target.closest?.(".out .p");
    if (!node) return;
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); node.click(); }
    const by = { ArrowRight: "nextElementSibling", ArrowLeft: "previousElementSibling" }[event.key];
    if (by && node[by]?.classList.contains("p")) { event.preventDefault(); node.tabIndex = -1; node[by].tabIndex = 0; node[by].focus(); }
  });

  build();
  setMode(form.querySelector('[data-mode="chat"]').getAttribute("aria-pressed") === "true" || (!new URLSearchParams(location.search).has("mode") && ["chat", "aligned", "reasoner"].includes(sides[0]?.model.role)) ? "chat" : "completion");
  grow();
})();
