// Saving over the version that one began with, and what is to be done when somebody else has saved another.

import { button, el } from "./dom.js";
import { difference } from "./versions.js";

const $ = (id) => document.getElementById(id);

export class Saving {
  // base: { name, as: the name as the document has it, version, text }
  constructor(designer, base) {
    this.designer = designer;
    this.base = base;
    this.busy = false;
    this.leaving = false; // nothing of it is to be kept
  }

  get dirty() {
    return this.designer.text !== this.base.text || this.designer.jsonFault !== "";
  }

  async save(version = this.designer.doc.name === this.base.as ? this.base.version : 0) {
    if (this.busy) return false;
    if (this.designer.jsonFault) return this.designer.say(`The JSON cannot be read: ${this.designer.jsonFault}`, true), false;
    const { doc, text: document } = this.designer;
    const before = doc.name === this.base.as ? this.base.version : 0;
    $("save").disabled = this.busy = true;
    try {
      const found = await this.designer.api.post("save", { document, version });
      this.base = { name: found.name, as: doc.name, version: found.version, text: document };
      history.replaceState(null, "", found.address);
      this.designer.notice();
      this.designer.say(found.version === before ? `This is version ${before} already.` : `Saved as version ${found.version}.`);
      if (!$("pane-versions").hidden) this.designer.versions.open();
      if (!before) this.designer.showForm();
      this.designer.show("form");
      return true;
    } catch (error) {
      if (error.reason === "WORKFLOW_CHANGED") await this.conflict();
      else if (error.problems.length) {
        this.designer.problems.found = error.problems;
        this.designer.say("Not saved: the document has problems.", true);
        this.designer.show("form");
      } else this.designer.say(`Not saved: ${error.message}`, true);
      return false;
    } finally {
      $("save").disabled = this.busy = false;
    }
  }

  // A user who returns to this page sees the conflict at once, and not only when they save.
  async peek() {
    if (document.hidden || this.busy || !this.base.version || this.designer.doc.name !== this.base.as || $("notice").firstChild) return;
    const { version } = this.base;
    const theirs = await this.designer.api.get("document", { workflow: this.base.name }).catch(() => null);
    if (theirs && theirs.version !== version && this.base.version === version && !this.busy) await this.conflict("");
  }

  // Somebody has saved another version meanwhile: nothing of either is lost.
  async conflict(what = "Not saved. ") {
    const { name } = this.designer.doc;
    try {
      const theirs = await this.designer.api.get("document", { workflow: name });
      const mine = this.designer.text;
      const known = name === this.base.as ? this.base.version : 0;
      const words = !theirs.version ? `${name} was deleted meanwhile.`
        : known ? `Version ${theirs.version} of ${name} was saved at ${theirs.saved}, while version ${known} was edited here.`
        : `There is a workflow ${name} already, in version ${theirs.version}.`;
      this.designer.notice(
        el("p", {}, el("b", {}, what), words, " What is here is unchanged."),
        el("p", { class: "acts" },
          button(theirs.version ? `Save this as version ${theirs.version + 1}` : "Save this", () => this.save(theirs.version), { id: "save-mine" }),
          theirs.version ? button("Take up theirs", () => {
            this.designer.notice();
            if (!this.designer.take(theirs.document, "Theirs is taken up. Undo brings yours back.")) return;
            this.base = { name, as: name, version: theirs.version, text: this.designer.text };
            this.designer.showSaved();
          }, { id: "take-theirs" }) : null),
        theirs.version ? el("details", {}, el("summary", {}, "Differences: theirs (−) and this (+)"), difference(theirs.document, mine)) : "");
      this.designer.say(`${what}The workflow was changed by somebody else.`, true);
    } catch (error) {
      this.designer.say(`Not saved: ${error.message}`, true);
    }
  }

  // The version that a run starts from: saved first, if it is not. Null when that failed.
  async stored() {
    if (this.dirty && !(await this.save())) return null;
    return { name: this.base.name, version: this.base.version };
  }

  async remove() {
    if (!window.confirm(`Delete the workflow ${this.base.name}? Its runs go on; its schedule is deleted with it.`)) return;
    try {
      await this.designer.api.post("delete", { workflow: this.base.name, version: this.base.version });
      this.leaving = true;
      location.assign("/workflows");
    } catch (error) {
      if (error.reason === "WORKFLOW_CHANGED") await this.conflict();
      else this.designer.say(`Not deleted: ${error.message}`, true);
    }
  }
}
