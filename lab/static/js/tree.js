// The tree of continuations. A branch is { id, parent, at, tokens }: it leaves its parent's path after `at`
// tokens, and its own first token is the one that somebody chose. Nothing of it is ever thrown away.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const decoder = new TextDecoder();
  const draw = (name, attributes, text) => {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    return node;
  };

  class Tree {
    constructor() { this.branches = []; this.shown = null; }
    add(parent, at, tokens = []) {
      const branch = { id: this.branches.length, parent, at, tokens, finish: null, failed: "" };
      this.branches.push(branch);
      this.shown = branch;
      return branch;
    }
    path(branch = this.shown) {
      if (!branch) return [];
      return branch.parent ? [...this.path(branch.parent).slice(0, branch.at), ...branch.tokens] : branch.tokens;
    }
    // Where along the path each token was chosen by a person: token place -> letter.
    letters() {
      const places = new Map();
      for (const branch of this.branches) {
        if (!branch.parent) continue;
        const key = this.key(branch.parent, branch.at);
        if (!places.has(key)) places.set(key, String.fromCharCode(97 + places.size % 26));
      }
      return places;
    }
    // The same point reached through different children is one point: it belongs to the branch that wrote it.
    key(branch, at) {
      let owner = branch;
      while (owner.parent && at < owner.at) owner = owner.parent;
      return `${owner.id}:${at}`;
    }
    text(tokens) { return decoder.decode(Uint8Array.from(tokens.flatMap((token) => token.bytes || []))); }

    // Each branch a row; a character is as wide on all rows, so that what is below stands where it begins.
    svg(prompt, open) {
      const letters = this.letters(), rowHeight = 46, chars = new Map();
      const length = (branch, n) => this.text(this.path(branch).slice(0, n)).length;
      const begin = Math.min(26, prompt.length || 4);
      let most = begin + 10;
      for (const branch of this.branches) { chars.set(branch, length(branch, Infinity)); most = Math.max(most, begin + chars.get(branch)); }
      const scale = Math.min(7, 1190 / most), x = (n) => 8 + (begin + n) * scale, fits = (width) => Math.max(0, Math.floor(width / 6.7));
      const cut = (text, room) => (text.length <= room ? text : room > 1 ? `${text.slice(0, room - 1)}…` : "");
      const rows = this.order(), height = 40 + rows.length * rowHeight;
      const svg = draw("svg", { viewBox: `0 0 1216 ${height}`, class: "plot twigs", role: "img", "aria-label": `A tree of ${rows.length} continuations of one prompt; the list below has them as text` });
      const y = new Map(rows.map((branch, i) => [branch, 46 + i * rowHeight]));
      const flat = (text) => text.replace(/\s+/g, " ");
      const stones = new Map(), words = draw("g", {});
      for (const branch of rows) {
        const own = y.get(branch), from = branch.parent ? length(branch, branch.at) : 0, to = chars.get(branch);
        const line = branch === this.shown ? "ki" : "kg";
        if (branch.parent) {
          let owner = branch.parent;
          while (owner.parent && branch.at < owner.at) owner = owner.parent;
          const up = y.get(owner), at = x(from);
          svg.append(draw("path", { class: `l ${line}`, d: `M${at} ${up}C${at + 26} ${up} ${at + 14} ${own} ${at + 40} ${own}H${Math.max(at + 44, x(to))}` }));
          stones.set(this.key(branch.parent, branch.at), [at, up]);
        } else svg.append(draw("path", { class: `l ${line}`, d: `M8 ${own}H${x(to)}` }));
        // Words over the line, as far as the next point at which somebody chose.
        const starts = branch.parent ? x(from) + 46 : x(0) + 4;
        const room = fits(1210 - starts), text = flat(this.text(branch.tokens));
        const label = draw("text", { x: starts, y: own - 9, class: branch === this.shown ? "strong" : "" }, cut(text, Math.min(room, Math.max(12, fits(x(to) - starts)))));
        label.addEventListener("click", () => open(branch));
        words.append(label);
      }
      const root = y.get(rows[0]);
      words.append(draw("text", { x: 10, y: root - 9 }, cut(flat(prompt), fits(begin * scale))));
      svg.append(words, draw("circle", { cx: 8, cy: root, r: 4, class: "tree-root" }));
      for (const [key, [cx, cy]] of stones) {
        svg.append(draw("circle", { cx, cy, r: 9, class: "tree-stone", "stroke-width": 1.25 }), draw("text", { x: cx, y: cy + 4, "text-anchor": "middle", class: "tree-letter" }, letters.get(key)));
      }
      return svg;
    }
    // Children below their parent, those that leave it last first, so that lines do not cross.
    order() {
      const sorted = [], visit = (branch) => { sorted.push(branch); this.branches.filter((one) => one.parent === branch).sort((a, b) => b.at - a.at || a.id - b.id).forEach(visit); };
      this.branches.filter((branch) => !branch.parent).forEach(visit);
      return sorted;
    }
    list(open) {
      const letters = this.letters();
      return this.order().map((branch) => {
        const item = document.createElement("li"), button = document.createElement("button");
        button.type = "button";
        button.className = "path";
        button.dir = "auto";
        if (branch === this.shown) button.setAttribute("aria-current", "true");
        const chain = [];
        for (let one = branch; one; one = one.parent) chain.unshift(one);
        let done = 0;
        chain.forEach((one, i) => {
          const end = chain[i + 1] ? chain[i + 1].at : Infinity, path = this.path(one).slice(done, end);
          if (one.parent) {
            const stone = document.createElement("span");
            stone.className = "stone people s-letter";
            stone.textContent = letters.get(this.key(one.parent, one.at));
            button.append(stone, " ");
          }
          button.append(this.text(path));
          done = Math.min(end, done + path.length);
        });
        button.addEventListener("click", () => open(branch));
        item.append(button);
        return item;
      });
    }
  }
  (window.Lab ??= {}).Tree = Tree;
})();
