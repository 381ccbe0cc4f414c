// The designer: one document, shown as a graph, as forms and as JSON, each of which changes it.

import { Api } from "./api.js";
import * as edit from "./document.js";
import { button, el } from "./dom.js";
import { Form } from "./form.js";
import { History } from "./history.js";
import { read, write } from "./json.js";
import { formOf } from "./parts.js";
import { Problems } from "./problems.js";
import { Saving } from "./saving.js";
import { Schema } from "./schema.js";
import { Trial } from "./trial.js";
import { Versions } from "./versions.js";
import { View } from "./view.js";

const MOST = 1 << 20; // bytes of a document

const $ = (id) => document.getElementById(id);
const root = $("designer");
const text = $("json");

class Designer {
  constructor(schema, nodes, doc) {
    this.api = new Api(root.dataset.token);
    this.schema = new Schema(schema);
    this.nodes = nodes;
    this.history = new History(doc);
    this.saving = new Saving(this, { name: root.dataset.name, as: root.dataset.name ? doc.name : null, version: Number(root.dataset.version), text: root.dataset.name ? write(doc) : "" });
    this.chosen = ""; // step:0, group:0, edge:0; nothing: the workflow itself
    this.connecting = "";
    this.problems = new Problems(this);
    this.states = new Map();
    this.jsonFault = "";
    this.form = new Form(this);
    this.view = new View($("graph"), {
      choose: (id) => this.choose(id),
      connect: (from, to) => this.connect(from, to),
      remove: (id) => this.remove(id),
      cancel: () => this.stopConnecting(),
      startConnecting: (id) => this.startConnecting(id),
    });
    this.trial = new Trial($("pane-try"), {
      api: this.api,
      ready: () => this.saving.stored(),
      states: (states) => this.showStates(states),
      say: (words) => this.say(words),
    });
    this.versions = new Versions($("pane-versions"), {
      api: this.api,
      name: () => this.saving.base.name,
      draft: () => this.text,
      take: (taken, version) => this.take(taken, `Version ${version} is taken up; save it to make it the latest.`),
      say: (words) => this.say(words),
    });
    this.listen();
    this.palette();
    this.show();
    this.problems.checks.ask(0);
  }

  get doc() {
    return this.history.doc;
  }

  get text() {
    if (this.written?.doc !== this.doc) this.written = { doc: this.doc, text: write(this.doc) };
    return this.written.text;
  }

  // -- changes ---------------------------------------------------------------------------------
  // From the form; it keeps its fields.
  set(path, value, mark = "") {
    this.history.commit(edit.setAt(this.doc, path, value), mark);
    this.changed("form");
  }

  rename(path, name) {
    const [, index] = path;
    const others = edit.namesOf(edit.setAt(this.doc, [...path, "name"], ""));
    if (name === "") return "give it a name";
    if (others.includes(name)) return `there is another '${name}'`;
    this.history.commit(edit.rename(this.doc, path, name), `rename ${path[0]} ${index}`);
    this.changed("form");
    return "";
  }

  rest() {
    this.history.rest();
  }

  change(doc, words = "") {
    this.history.commit(doc);
    this.changed();
    if (words) this.say(words);
  }

  changed(by = "") {
    if (by !== "json") this.writeJson();
    this.show(by);
    this.problems.checks.ask();
  }

  writeJson() {
    this.jsonFault = "";
    text.value = this.text;
    this.showJsonFault();
  }

  readJson() {
    const found = read(text.value);
    const isObject = found.value && typeof found.value === "object" && !Array.isArray(found.value);
    if ("fault" in found) this.jsonFault = `${found.line ? `Line ${found.line}: ` : ""}${found.fault}`;
    else this.jsonFault = isObject ? "" : "A document is an object with name and steps.";
    this.showJsonFault();
    if (this.jsonFault) return this.showSaved();
    this.history.commit(found.value, "json");
    this.changed("json");
  }

  showJsonFault() {
    $("json-fault").textContent = this.jsonFault;
    if (this.jsonFault) text.setAttribute("aria-invalid", "true");
    else text.removeAttribute("aria-invalid");
  }

  take(taken, words) {
    const found = read(taken);
    if ("fault" in found || !found.value || typeof found.value !== "object" || Array.isArray(found.value)) {
      this.say(`This is not a document: ${found.fault ?? "it must be an object with name and steps"}.`, true);
      return false;
    }
    this.chosen = "";
    this.change(found.value, words);
    return true;
  }

  undo() {
    if (this.history.undo()) this.changed();
  }

  redo() {
    if (this.history.redo()) this.changed();
  }

  // -- the graph -------------------------------------------------------------------------------
  part(id) {
    const [what, index] = id.split(":");
    const key = { step: "steps", group: "groups", edge: "edges" }[what];
    const part = key && edit.list(this.doc[key])[Number(index)];
    return part && typeof part === "object" ? { what, key, index: Number(index), part, name: edit.nameOf(part) } : null;
  }

  choose(id) {
    this.connecting = "";
    this.chosen = id;
    this.rest();
    this.show();
    this.tab("form");
  }

  add(step) {
    const from = this.part(this.chosen);
    const after = from && from.what !== "edge" ? from.name : "";
    const mode = $("mode").value;
    const grown = edit.addStep(this.doc, step, after, mode);
    this.chosen = `step:${edit.stepsOf(grown).length - 1}`;
    const name = edit.nameOf(edit.stepsOf(grown).at(-1));
    this.change(grown, after ? `Added ${name}, after ${after} ${mode === "always" ? "always" : `on ${mode}`}.` : `Added ${name}.`);
    this.tab("form");
  }

  startConnecting(id) {
    if (!this.part(id) || id.startsWith("edge")) return this.say("Choose a step first: the connection leads from it.", true);
    this.chosen = this.connecting = id;
    this.show();
    const mode = $("mode").value;
    this.say(`Choose the step that follows ${this.part(id).name} ${mode === "always" ? "always" : `on ${mode}`}. Escape stops.`);
  }

  stopConnecting() {
    if (!this.connecting) return;
    this.connecting = "";
    this.show();
    this.say("");
  }

  connect(fromId, toId) {
    this.connecting = "";
    const [from, to, on] = [this.part(fromId), this.part(toId), $("mode").value];
    if (!from || !to) return;
    if (to.what === "group") return this.say("A connection leads to a step, not to a group.", true), this.show();
    this.change(edit.connect(this.doc, from.name, to.name, on), `${to.name} follows ${from.name} ${on === "always" ? "always" : `on ${on}`}.`);
  }

  remove(id) {
    const found = this.part(id);
    if (!found) return this.say("Choose what is to be deleted.", true);
    const by = { step: edit.removeStep, group: edit.removeGroup, edge: edit.removeEdge }[found.what];
    const name = found.what === "edge" ? `the connection from ${found.part.from} to ${found.part.to}` : found.name;
    this.chosen = this.connecting = "";
    this.change(by(this.doc, found.index), `Deleted ${name}.`);
    $("graph").querySelector('.node[tabindex="0"]')?.focus({ preventScroll: true });
  }

  palette() {
    const kinds = Object.entries(this.schema.kinds).map(([kind, schema]) => {
      const meta = this.schema.empty(schema.properties.meta);
      return button(`+ ${kind}`, () => this.add({ name: kind.replaceAll("_", "-"), kind, meta }), { title: schema.description ?? "", "data-kind": kind });
    });
    const own = this.nodes.map(({ description, ...step }) => button(`+ ${step.title ?? step.name}`, () => this.add(structuredClone(step)), { title: description ?? "", class: "own", "data-node": step.name }));
    $("palette").replaceChildren(...kinds, ...own);
  }

  // -- what is shown ---------------------------------------------------------------------------
  show(by = "") {
    if (this.chosen && !this.part(this.chosen)) this.chosen = "";
    if (this.connecting && !this.part(this.connecting)) this.connecting = "";
    this.showGraph();
    if (by !== "form") this.showForm();
    this.problems.show();
    this.showSaved();
    $("undo").disabled = !this.history.past.length;
    $("redo").disabled = !this.history.future.length;
    $("connect").setAttribute("aria-pressed", this.connecting ? "true" : "false");
  }

  showGraph() {
    const count = new Map();
    for (const { path } of this.problems.found) {
      const [key, index] = edit.partsOf(path);
      const id = { steps: "step", groups: "group", edges: "edge" }[key];
      if (id && index !== undefined) count.set(`${id}:${index}`, (count.get(`${id}:${index}`) ?? 0) + 1);
    }
    this.view.show({ doc: this.doc, chosen: this.chosen, connecting: this.connecting, problems: count, states: this.states });
  }

  showStates(states) {
    const same = states.size === this.states.size && [...states].every(([name, state]) => this.states.get(name) === state);
    this.states = states;
    if (!same) this.showGraph();
  }

  showSaved() {
    const { dirty, base } = this.saving;
    $("saved").hidden = !base.version && !dirty;
    $("saved").textContent = dirty ? "not saved" : "saved";
    $("saved").className = `badge ${dirty ? "paused" : "succeeded"}`;
    $("which").textContent = base.version ? `Workflow, version ${base.version}` : "Workflow, not saved yet";
    $("title").textContent = base.name ? `Edit ${base.name}` : "New workflow";
    $("run").textContent = dirty ? "Save and run" : "Run";
  }

  showForm() {
    this.form.faults.clear();
    const pane = $("pane-form");
    const scrolled = pane.scrollTop;
    const held = pane.contains(document.activeElement) ? document.activeElement.id : "";
    pane.replaceChildren(...formOf(this, this.part(this.chosen)));
    pane.scrollTop = scrolled;
    if (held) $(held)?.focus({ preventScroll: true });
  }

  // After a change of what fields there are. `inside`: to the first field in the part `id`.
  rebuild(id, inside = false) {
    this.showForm();
    this.problems.show();
    const part = document.querySelector(`[data-path="${CSS.escape(id.slice(2))}"]`);
    const target = (inside && part?.querySelector("input, select, textarea")) || $(id) || part?.querySelector("button");
    target?.focus();
  }

  faulty() {
    this.problems.show();
  }

  // -- files -----------------------------------------------------------------------------------
  async importFile(file) {
    if (!file) return;
    if (file.size > MOST) return this.say(`${file.name} exceeds the limit of ${MOST} bytes.`, true);
    this.take(await file.text(), `Imported ${file.name}. Undo brings back what was here.`);
  }

  exportFile() {
    const url = URL.createObjectURL(new Blob([this.text + "\n"], { type: "application/json" }));
    el("a", { href: url, download: `${String(this.doc.name || "workflow").replaceAll("/", "-")}.json` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }

  // -- the page --------------------------------------------------------------------------------
  say(words, bad = false) {
    $("word").textContent = words;
    $("word").classList.toggle("bad", bad);
  }

  notice(...inside) {
    $("notice").replaceChildren(...(inside.length ? [el("section", { class: "notice", role: "alert" }, inside)] : []));
  }

  tab(name) {
    for (const each of document.querySelectorAll('[role="tab"]')) {
      const on = each.id === `tab-${name}`;
      each.setAttribute("aria-selected", on ? "true" : "false");
      each.tabIndex = on ? 0 : -1;
      $(each.id.replace("tab", "pane")).hidden = !on;
    }
  }

  listen() {
    const tabs = [...document.querySelectorAll('[role="tab"]')];
    for (const [n, each] of tabs.entries()) {
      const open = () => {
        this.tab(each.id.slice(4));
        if (each.id === "tab-versions") this.versions.open();
      };
      each.addEventListener("click", open);
      each.addEventListener("keydown", (event) => {
        const to = { ArrowRight: tabs[(n + 1) % tabs.length], ArrowLeft: tabs.at(n - 1) }[event.key];
        if (!to) return;
        to.focus();
        to.click();
      });
    }
    const click = (id, act) => $(id).addEventListener("click", act);
    click("undo", () => this.undo());
    click("redo", () => this.redo());
    click("connect", () => (this.connecting ? this.stopConnecting() : this.startConnecting(this.chosen)));
    click("remove", () => this.remove(this.chosen));
    click("save", () => this.saving.save());
    click("run", () => {
      this.tab("try");
      this.trial.begin();
    });
    click("import", () => $("file").click());
    click("export", () => this.exportFile());
    $("file").addEventListener("change", async () => {
      await this.importFile($("file").files[0]);
      $("file").value = "";
    });
    text.addEventListener("input", () => this.readJson());
    text.addEventListener("change", () => this.rest());
    $("graph").addEventListener("click", (event) => {
      if (!event.target.closest("[data-id]") && !this.connecting) this.choose("");
    });
    document.addEventListener("keydown", (event) => this.key(event));
    document.addEventListener("visibilitychange", () => this.saving.peek());
    window.addEventListener("beforeunload", (event) => {
      if (this.saving.dirty && !this.saving.leaving && this.history.past.length + this.history.future.length) event.preventDefault();
    });
  }

  key(event) {
    if (event.key === "Escape") return this.stopConnecting();
    if (!(event.ctrlKey || event.metaKey) || event.altKey) return;
    const key = event.key.toLowerCase();
    if (key === "s") {
      event.preventDefault();
      this.saving.save();
      return;
    }
    if (event.target.closest?.("input, textarea, select")) return; // the browser's own undo, of this field
    if (key === "z" || key === "y") {
      event.preventDefault();
      if (key === "y" || event.shiftKey) this.redo();
      else this.undo();
    }
  }
}

async function begin() {
  const { schema, nodes } = await new Api("").get("kinds");
  const found = read(text.value);
  if ("fault" in found) throw new Error(`this document cannot be edited here: ${found.fault}`);
  new Designer(schema, nodes, found.value);
}

begin().catch((error) => {
  $("word").textContent = `The designer cannot begin: ${error.message}. Reload the page to try again.`;
  $("word").classList.add("bad");
});
