// The pane of versions: what differs between two of them, and taking an older one up again.

import { diff, folded } from "./diff.js";
import { button, el } from "./dom.js";

const DRAFT = "draft";

// `host` has: api, name(), draft() → text, take(text, version), say(words).
export class Versions {
  constructor(pane, host) {
    this.pane = pane;
    this.host = host;
  }

  async open() {
    const name = this.host.name();
    if (!name) return this.pane.replaceChildren(el("p", { class: "about" }, "Saved versions will be here."));
    try {
      const { versions, more } = await this.host.api.get("versions", { workflow: name });
      this.show(versions, more);
    } catch (error) {
      this.pane.replaceChildren(el("p", { class: "fault", role: "alert" }, error.message));
    }
  }

  show(versions, more) {
    const options = () => versions.map((each) => el("option", { value: each.version }, `version ${each.version}, ${each.saved}`));
    const from = el("select", { id: "from" }, options());
    const to = el("select", { id: "to" }, el("option", { value: DRAFT }, "what is here now"), options());
    this.result = el("div", { class: "difference", role: "region", "aria-label": "Difference", tabindex: 0 });
    const compare = () => this.compare(from.value, to.value);
    from.addEventListener("change", compare);
    to.addEventListener("change", compare);
    this.pane.replaceChildren(
      el("div", { class: "field" }, el("label", { for: "from" }, "From"), from),
      el("div", { class: "field" }, el("label", { for: "to" }, "To"), to),
      button("Take up the first", async () => this.take(from.value), { id: "take" }),
      more ? el("p", { class: "about" }, `The newest ${versions.length} versions are listed.`) : "",
      this.result);
    compare();
  }

  async text(version) {
    if (version === DRAFT) return this.host.draft();
    return (await this.host.api.get("document", { workflow: this.host.name(), version })).document;
  }

  async compare(from, to) {
    try {
      const [before, after] = await Promise.all([this.text(from), this.text(to)]);
      this.result.replaceChildren(difference(before, after));
    } catch (error) {
      this.result.replaceChildren(el("p", { class: "fault", role: "alert" }, error.message));
    }
  }

  async take(version) {
    try {
      this.host.take(await this.text(version), version);
    } catch (error) {
      this.host.say(error.message);
    }
  }
}

export function difference(before, after) {
  const lines = folded(diff(before, after));
  if (!lines.length) return el("p", { class: "about" }, "They are the same.");
  const word = { "-": "removed", "+": "added", " ": "same" };
  return el("pre", { class: "diff" }, lines.map((line) => (line
    ? el("span", { class: word[line.op] }, `${line.op} ${line.text}\n`)
    : el("span", { class: "gap" }, "⋯\n"))));
}
