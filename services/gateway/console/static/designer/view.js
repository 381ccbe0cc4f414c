// The graph as SVG: steps are chosen, connected by dragging, by touch or by keys.

import { graphOf } from "./document.js";
import { svg } from "./dom.js";
import { HEIGHT, WIDTH, layout } from "./layout.js";

const SHOWN = 24; // characters of a name
const PADDING = 16; // of the box, in pixels
const SMALLEST = 0.75; // of its size, where the page is narrow
const ON = { needs: "depends on", member: "part of the group" };

// `host` has: choose(id), connect(fromId, toId), remove(), cancel(), startConnecting(id).
export class View {
  constructor(box, host) {
    this.box = box;
    this.host = host;
    this.nodes = [];
    box.addEventListener("keydown", (event) => this.key(event));
  }

  // what: { doc, chosen, connecting, problems: Map(id → count), states: Map(name → state) }
  show(what) {
    if (this.dragging) {
      this.late = what; // what a finger is on must stay
      return;
    }
    this.what = what;
    const graph = graphOf(what.doc);
    const looks = JSON.stringify([graph, what.chosen, what.connecting, [...what.problems], [...what.states]]);
    if (looks === this.looks) return;
    this.looks = looks;
    const held = this.box.contains(document.activeElement) ? document.activeElement.dataset.id : "";
    const drawn = layout(graph.nodes, graph.links);
    this.nodes = graph.nodes.map((node) => ({ ...node, ...drawn.boxes.get(node.id) }));
    if (!graph.nodes.length) {
      const empty = document.createElement("p");
      empty.className = "nothing";
      empty.textContent = "No steps yet: add the first one above.";
      this.box.replaceChildren(empty);
      return;
    }
    const marker = (kind) => svg("marker", { id: `end-${kind}`, viewBox: "0 0 10 10", refX: 9, refY: 5, markerWidth: 7, markerHeight: 7, orient: "auto-start-reverse" },
      svg("path", { class: `on-${kind}`, d: "M0 1L10 5L0 9z" }));
    this.line = svg("path", { class: "drawing", d: "" });
    const scale = Math.min(1, Math.max(SMALLEST, (this.box.clientWidth - 2 * PADDING) / drawn.width));
    const first = !this.picture;
    this.picture = svg("svg", { width: drawn.width * scale, height: drawn.height * scale, viewBox: `0 0 ${drawn.width} ${drawn.height}` },
      svg("defs", {}, ["success", "failure", "member"].map(marker)),
      graph.links.map((link) => this.link(link, drawn.paths.get(link.id), graph)),
      this.nodes.map((node) => this.node(node)),
      this.line);
    const { scrollTop, scrollLeft } = this.box;
    this.box.replaceChildren(this.picture);
    [this.box.scrollTop, this.box.scrollLeft] = [scrollTop, first ? (this.box.scrollWidth - this.box.clientWidth) / 2 : scrollLeft];
    if (held) this.focus(held);
  }

  link(link, d, graph) {
    const name = (id) => graph.nodes.find((node) => node.id === id).name;
    const words = `${name(link.source)} → ${name(link.target)}, ${ON[link.on] ?? (link.on === "always" ? "always" : `on ${link.on}`)}`;
    const edge = link.id.startsWith("edge:");
    const classes = ["link", edge && link.id === this.what.chosen && "chosen", this.what.problems.get(link.id) && "bad"].filter(Boolean).join(" ");
    const end = link.on === "failure" || link.on === "member" ? link.on : "success";
    return svg("g", { class: classes, "data-id": edge ? link.id : null, onclick: edge ? () => this.host.choose(link.id) : () => {} },
      svg("title", {}, words),
      edge ? svg("path", { class: "hit", d }) : null,
      svg("path", { class: `on-${link.on}`, d, "marker-end": `url(#end-${end})` }));
  }

  node(node) {
    const { chosen, connecting, problems, states } = this.what;
    const state = states.get(node.name) ?? "";
    const count = problems.get(node.id) ?? 0;
    const first = chosen === node.id || (!this.nodes.some((each) => each.id === chosen) && node === this.nodes[0]);
    const sub = [node.kind, state].filter(Boolean).join(" · ");
    const said = [node.name || "a step without a name", sub, count ? `${count} problem${count > 1 ? "s" : ""}` : ""].filter(Boolean).join(", ");
    const classes = ["node", node.what, state.replaceAll(" ", "-"), chosen === node.id && "chosen", connecting === node.id && "source", count && "bad"].filter(Boolean);
    const shown = node.name.length > SHOWN ? `${node.name.slice(0, SHOWN - 1)}…` : node.name || "(no name)";
    const middle = node.x + WIDTH / 2;
    const handle = svg("g", { class: "handle" },
      svg("circle", { class: "reach", cx: middle, cy: node.y + HEIGHT, r: 17 }),
      svg("circle", { cx: middle, cy: node.y + HEIGHT, r: 6 }),
      svg("title", {}, "Drag to the step that follows"));
    handle.addEventListener("pointerdown", (event) => this.drag(event, node));
    handle.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false }); // or the page would scroll
    return svg("g", { class: classes.join(" "), "data-id": node.id, tabindex: first ? 0 : -1, role: "button", "aria-label": said, "aria-pressed": chosen === node.id ? "true" : "false", onclick: () => this.press(node) },
      svg("title", {}, said),
      svg("rect", { x: node.x, y: node.y, width: WIDTH, height: HEIGHT, rx: node.what === "group" ? 26 : 8 }),
      svg("text", { x: middle, y: node.y + 23, "text-anchor": "middle" }, shown),
      svg("text", { class: "sub", x: middle, y: node.y + 40, "text-anchor": "middle" }, sub),
      count ? svg("g", { class: "count", "aria-hidden": "true" }, svg("circle", { cx: node.x + WIDTH - 3, cy: node.y + 3, r: 10 }), svg("text", { x: node.x + WIDTH - 3, y: node.y + 7, "text-anchor": "middle" }, String(count))) : null,
      handle);
  }

  press(node) {
    const { connecting } = this.what;
    if (connecting && connecting !== node.id) this.host.connect(connecting, node.id);
    else this.host.choose(node.id);
    this.focus(node.id);
  }

  focus(id) {
    this.box.querySelector(`[data-id="${CSS.escape(id)}"]`)?.focus({ preventScroll: true });
  }

  drag(event, node) {
    if (event.button) return;
    event.preventDefault();
    event.stopPropagation();
    const from = [node.x + WIDTH / 2, node.y + HEIGHT];
    const over = (where) => document.elementFromPoint(where.clientX, where.clientY)?.closest?.(".node")?.dataset.id;
    const moved = (where) => {
      const to = new DOMPoint(where.clientX, where.clientY).matrixTransform(this.picture.getScreenCTM().inverse());
      this.line.setAttribute("d", `M${from[0]} ${from[1]}L${to.x} ${to.y}`);
      const at = over(where);
      for (const each of this.picture.querySelectorAll(".node")) each.classList.toggle("target", each.dataset.id === at && at !== node.id);
    };
    const done = (where) => {
      for (const [name, each] of Object.entries(listeners)) window.removeEventListener(name, each);
      const at = where.type === "pointerup" ? over(where) : "";
      this.line.setAttribute("d", "");
      for (const each of this.picture.querySelectorAll(".target")) each.classList.remove("target");
      this.dragging = false;
      if (this.late) this.show(this.late);
      this.late = null;
      if (at && at !== node.id) this.host.connect(node.id, at);
      else if (at === node.id) this.host.choose(node.id);
    };
    this.dragging = true;
    const listeners = { pointermove: moved, pointerup: done, pointercancel: done };
    for (const [name, each] of Object.entries(listeners)) window.addEventListener(name, each);
    event.target.releasePointerCapture?.(event.pointerId); // a finger would hold what it began on
  }

  key(event) {
    const node = this.nodes.find((each) => each.id === event.target.closest?.(".node")?.dataset.id);
    if (!node || event.ctrlKey || event.metaKey || event.altKey) return;
    const acts = {
      Enter: () => this.press(node),
      " ": () => this.press(node),
      c: () => this.host.startConnecting(node.id),
      Delete: () => this.host.remove(node.id),
      Backspace: () => this.host.remove(node.id),
      Escape: () => this.host.cancel(),
    };
    const way = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[event.key];
    if (!acts[event.key] && !way) return;
    event.preventDefault();
    if (way) this.step(node, way);
    else acts[event.key]();
  }

  // To the nearest node on this side: up and down to the next row, left and right in the same row if there is one.
  step(node, [dx, dy]) {
    const ahead = this.nodes.flatMap((other) => {
      const [x, y] = [other.x - node.x, other.y - node.y];
      const along = x * dx + y * dy;
      const keys = dy ? [along, Math.abs(x)] : [Math.abs(y), along];
      return along > 1 ? [{ other, keys }] : [];
    }).sort((a, b) => a.keys[0] - b.keys[0] || a.keys[1] - b.keys[1])[0];
    if (!ahead) return;
    for (const each of this.picture.querySelectorAll(".node")) each.setAttribute("tabindex", each.dataset.id === ahead.other.id ? 0 : -1);
    const found = this.box.querySelector(`[data-id="${CSS.escape(ahead.other.id)}"]`);
    found.focus();
    found.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
}
