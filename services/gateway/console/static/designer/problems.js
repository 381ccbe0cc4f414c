// The problems that the scheduler finds in the document: checked after each change, shown at the parts that have them.

import { Latest } from "./api.js";
import * as edit from "./document.js";
import { button, el } from "./dom.js";
import { showProblems } from "./form.js";

const REST = 350; // ms without a change after which the document is checked
const AGAIN = 2_000; // ms after a check that the gateway could not make
const MOST = 1 << 20; // bytes of a document

const $ = (id) => document.getElementById(id);

export class Problems {
  constructor(designer) {
    this.designer = designer;
    this.found = []; // [{ path, message }]
    this.unchecked = ""; // why not
    this.checked = null; // the document that was checked last
    this.checks = new Latest(REST, () => this.check());
  }

  async check() {
    const { doc, text: document } = this.designer;
    this.unchecked = "";
    if (new TextEncoder().encode(document).length > MOST) {
      this.found = [{ path: "", message: `the document exceeds the limit of ${MOST} bytes` }];
    } else {
      try {
        const { problems } = await this.designer.api.post("check", { document });
        if (doc !== this.designer.doc) return this.checks.ask();
        this.found = problems;
      } catch (error) {
        this.unchecked = `Not checked: ${error.message}`;
        if (!error.status || error.status === 429 || error.status >= 500) this.checks.ask(AGAIN);
      }
    }
    this.checked = doc;
    this.designer.showGraph();
    this.show();
  }

  show() {
    showProblems($("pane-form"), this.found, this.designer.form.faults);
    const faults = [...this.designer.form.faults].map(([path, message]) => ({ path, message }));
    const all = [...faults, ...this.found];
    const words = this.unchecked || (all.length ? `${all.length} problem${all.length > 1 ? "s" : ""}` : this.checked === this.designer.doc ? "No problems" : "Checking …");
    const looks = JSON.stringify([words, all, all.map((problem) => this.placed(problem.path))]);
    if (looks === this.looks) return; // somebody may be on one of them
    this.looks = looks;
    const rows = all.map((problem) => el("li", {}, button(this.placed(problem.path), () => this.goTo(problem.path), { class: "link-button" }), " ", problem.message));
    $("problems").replaceChildren(
      el("h2", {}, words),
      all.length ? el("ul", {}, rows) : "");
    $("problems").className = all.length ? "bad" : this.checked === this.designer.doc && !this.unchecked ? "good" : "";
  }

  placed(path) {
    const [key, index, ...rest] = edit.partsOf(path);
    const part = index !== undefined && edit.list(this.designer.doc[key])[index];
    return part && edit.nameOf(part) ? `${edit.nameOf(part)}${rest.length ? ` › ${edit.pathOf(rest)}` : ""}` : path || "the document";
  }

  goTo(path) {
    const [key, index] = edit.partsOf(path);
    const id = index === undefined ? "" : { steps: `step:${index}`, groups: `group:${index}`, edges: `edge:${index}` }[key] ?? "";
    this.designer.choose(id);
    const places = [...$("pane-form").querySelectorAll("[data-path]")].filter((place) => edit.isWithin(path, place.dataset.path));
    const near = places.sort((a, b) => b.dataset.path.length - a.dataset.path.length)[0];
    near?.querySelector("input, select, textarea, button")?.focus();
  }
}
