// Fields made from a JSON Schema, over one part of a document. Input changes the document at once.

import { readAny, writeAny } from "./json.js";
import { getAt, isWithin, list, move, namesOf, nameOf, pathOf } from "./document.js";
import { button, el } from "./dom.js";
import { label, single } from "./schema.js";

const NAMED = ["depends_on", "start"]; // lists of names of steps; `steps` of a group too
const idOf = (path) => `f-${pathOf(path)}`;

// A schema's words, in which `backticks` are code.
export const plain = (words) => words.split("`").map((part, n) => (n % 2 ? el("code", {}, part) : part));

// `host` has: doc, schema, set(path, value, mark), rename(path, name), rebuild(id), rest().
export class Form {
  constructor(host) {
    this.host = host;
    this.faults = new Map(); // of fields whose text cannot be put into the document
  }

  // The fields of the object at `path`; `keys` in this order, all others left out.
  fields(path, schema, keys) {
    const shape = this.host.schema.shape(schema);
    return keys.filter((key) => shape.fields[key]).map((key) => this.field([...path, key], shape.fields[key], shape.required.includes(key)));
  }

  field(path, schema, required = false) {
    const key = path.at(-1);
    const shape = this.named(path, this.host.schema.shape(schema));
    if (key === "name" && path.length > 1 && typeof path.at(-2) === "number" && ["steps", "groups"].includes(path.at(-3)) && path.length === 3) return this.nameField(path, shape);
    if (shape.type === "object") return this.objectField(path, schema, shape, required);
    if (shape.type === "list") return this.listField(path, shape, required);
    if (shape.type === "map") return this.mapField(path, shape);
    return this.wrapped(path, label(String(key)), shape.about, required, this.control(path, shape, required));
  }

  // A list of names is chosen from, not typed.
  named(path, shape) {
    if (shape.type !== "list" || !(NAMED.includes(path.at(-1)) || (path[0] === "groups" && path.at(-1) === "steps"))) return shape;
    const own = path[0] === "steps" ? nameOf(this.host.doc.steps[path[1]]) : "";
    const members = path.at(-1) !== "depends_on" ? list(this.host.doc.steps).map(nameOf) : namesOf(this.host.doc);
    return { ...shape, items: { enum: members.filter((name) => name && name !== own) } };
  }

  wrapped(path, title, about, required, control) {
    const id = idOf(path);
    const fault = el("p", { class: "fault", id: `${id}-fault` });
    const note = about ? el("p", { class: "about", id: `${id}-about` }, plain(about)) : null;
    control.id = id;
    control.setAttribute("aria-describedby", `${id}-fault${about ? ` ${id}-about` : ""}`);
    if (required) control.setAttribute("aria-required", "true");
    control.addEventListener("change", () => this.host.rest());
    const name = el("label", { for: id }, title, required ? el("span", { class: "must", "aria-hidden": "true" }, " *") : "");
    const boxed = control.type === "checkbox";
    return el("div", { class: boxed ? "field box" : "field", "data-path": pathOf(path) }, boxed ? [control, name] : [name, control], note, fault);
  }

  nameField(path, shape) {
    const input = el("input", { type: "text", value: getAt(this.host.doc, path) ?? "", autocomplete: "off", spellcheck: "false" });
    input.addEventListener("input", () => this.say(path, this.host.rename(path.slice(0, -1), input.value)));
    return this.wrapped(path, "Name", shape.about, true, input);
  }

  control(path, shape, required) {
    const given = getAt(this.host.doc, path);
    const set = (value) => this.host.set(path, value, `type ${pathOf(path)}`);
    if (shape.type === "boolean") {
      const box = el("input", { type: "checkbox", checked: given === true });
      box.addEventListener("change", () => set(box.checked ? true : required || shape.default === true ? false : undefined));
      return box;
    }
    if (shape.type === "enum") {
      const choices = shape.choices.map(String);
      if (given !== undefined && !choices.includes(String(given))) choices.push(String(given));
      const empty = required && given !== undefined ? [] : [el("option", { value: "" }, shape.default == null ? "–" : `– (${shape.default})`)];
      const select = el("select", {}, empty, choices.map((choice) => el("option", { value: choice }, choice)));
      select.value = given === undefined ? "" : String(given);
      select.addEventListener("change", () => set(select.value === "" ? undefined : shape.choices.find((each) => String(each) === select.value) ?? select.value));
      return select;
    }
    if (shape.type === "any") return this.anyControl(path, shape, given, set);
    const text = given === undefined || given === null ? "" : typeof given === "object" ? JSON.stringify(given) : String(given);
    const input = shape.type === "long"
      ? el("textarea", { rows: 4, value: text })
      : el("input", { type: "text", value: text, inputmode: shape.type === "number" ? "decimal" : undefined, placeholder: shape.default == null ? undefined : String(shape.default) });
    input.autocomplete = "off";
    input.spellcheck = false;
    input.addEventListener("input", () => {
      const word = input.value;
      if (word === "" && !(required && shape.type !== "number")) return set(undefined);
      if (shape.type !== "number") return set(word);
      // Input that is not a number is kept as text, and the checks report it.
      set(/^\s*-?\d+(\.\d+)?\s*$/.test(word) ? Number(word) : word);
    });
    return input;
  }

  // A value of any type: JSON, or text as it stands.
  anyControl(path, shape, given, set) {
    const text = writeAny(given);
    const area = el("textarea", { rows: Math.min(10, Math.max(1, text.split("\n").length)), value: text, spellcheck: "false", class: "any" });
    if (shape.choices?.length) area.placeholder = shape.choices.join(", ");
    else if (!shape.about || /template/i.test(shape.about)) area.placeholder = "text, {{ a template }} or JSON";
    area.addEventListener("input", () => {
      area.rows = Math.min(10, Math.max(1, area.value.split("\n").length));
      const { value, fault } = readAny(area.value);
      this.say(path, fault ?? "");
      if (!fault) set(value);
    });
    return area;
  }

  objectField(path, schema, shape, required) {
    const there = getAt(this.host.doc, path) !== undefined;
    const title = label(String(path.at(-1)));
    if (!there && !required) return this.missing(path, title, shape, () => this.host.schema.empty(schema));
    const remove = required ? null : button("Remove", () => this.structure(path, undefined), { class: "small", "aria-label": `Remove ${title}` });
    return el("fieldset", { "data-path": pathOf(path) }, el("legend", {}, title), remove, el("p", { class: "fault" }), this.fields(path, schema, Object.keys(shape.fields)));
  }

  // The fields that are absent and could be added.
  missing(path, title, shape, made) {
    const add = button(`Add ${title.toLowerCase()}`, () => this.structure(path, made(), true), { class: "small", id: idOf(path) });
    return el("div", { class: "field", "data-path": pathOf(path) }, add, shape.about ? el("p", { class: "about" }, plain(shape.about)) : null, el("p", { class: "fault" }));
  }

  structure(path, value, inside = false) {
    this.host.set(path, value);
    this.host.rebuild(idOf(path), inside);
  }

  listField(path, shape, required) {
    const items = list(getAt(this.host.doc, path));
    const title = label(String(path.at(-1)));
    const one = single(title);
    const inner = this.host.schema.shape(shape.items);
    const rows = items.map((_, n) => {
      const tools = [
        button("↑", () => this.moved(path, n, n - 1), { class: "small", disabled: n === 0, "aria-label": `Move ${one} ${n + 1} up` }),
        button("↓", () => this.moved(path, n, n + 1), { class: "small", disabled: n === items.length - 1, "aria-label": `Move ${one} ${n + 1} down` }),
        button("Remove", () => this.taken(path, n, required), { class: "small", "aria-label": `Remove ${one} ${n + 1}` }),
      ];
      const at = [...path, n];
      if (inner.type === "object") {
        return el("fieldset", { "data-path": pathOf(at) }, el("legend", {}, `${label(one)} ${n + 1}`), el("span", { class: "item-tools" }, tools), el("p", { class: "fault" }),
          this.fields(at, shape.items, Object.keys(inner.fields)));
      }
      const control = this.control(at, inner, true);
      control.id = idOf(at);
      control.setAttribute("aria-label", `${label(one)} ${n + 1}`);
      return el("div", { class: "item", "data-path": pathOf(at) }, control, tools, el("p", { class: "fault" }));
    });
    const add = button(`Add ${one}`, () => this.added(path, items.length, shape.items), { class: "small", id: idOf(path) });
    return el("div", { class: "field list", role: "group", "aria-label": title, "data-path": pathOf(path) },
      el("span", { class: "title" }, title), rows, add, shape.about ? el("p", { class: "about" }, plain(shape.about)) : null, el("p", { class: "fault" }));
  }

  added(path, n, items) {
    const taken = list(getAt(this.host.doc, path));
    const free = items.enum?.find((each) => !taken.includes(each));
    this.host.set([...path, n], items.enum ? free ?? items.enum[0] ?? "" : this.host.schema.empty(items));
    this.host.rebuild(idOf([...path, n]), true);
  }

  moved(path, from, to) {
    this.host.set([], move(this.host.doc, path, from, to));
    this.host.rebuild(idOf([...path, to]), true);
  }

  taken(path, n, required) {
    const last = list(getAt(this.host.doc, path)).length === 1 && !required;
    this.structure(last ? path : [...path, n], undefined);
    this.host.rebuild(idOf(path));
  }

  mapField(path, shape) {
    const title = label(String(path.at(-1)));
    const one = single(title);
    const inner = this.host.schema.shape(shape.values);
    const entries = Object.entries(getAt(this.host.doc, path) ?? {});
    const box = el("div", { class: "rows-of-map" });
    const rows = [];
    const commit = () => {
      const kept = rows.filter((row) => row.key.value !== "");
      const names = kept.map((row) => row.key.value);
      const twice = names.find((name, n) => names.indexOf(name) !== n);
      const bad = kept.map((row) => row.fault()).find(Boolean);
      this.say(path, twice ? `${twice} is there twice` : bad ?? "");
      if (!twice && !bad) this.host.set(path, kept.length ? Object.fromEntries(kept.map((row) => [row.key.value, row.value()])) : undefined, `type ${pathOf(path)}`);
    };
    const add = (name, value) => {
      const text = inner.type === "any";
      const key = el("input", { type: "text", value: name, "aria-label": `Name of ${one} ${rows.length + 1}`, placeholder: "name", autocomplete: "off", spellcheck: "false" });
      const field = el("input", { type: "text", value: text ? writeAny(value) : String(value ?? ""), "aria-label": `Value of ${one} ${rows.length + 1}`, placeholder: "value", autocomplete: "off", spellcheck: "false" });
      const row = { key, value: () => (text ? readAny(field.value).value ?? "" : field.value), fault: () => (text ? readAny(field.value).fault : "") };
      const line = el("div", { class: "item" }, key, field, button("Remove", () => {
        rows.splice(rows.indexOf(row), 1);
        line.remove();
        commit();
        this.host.rest();
      }, { class: "small", "aria-label": `Remove ${one}` }));
      for (const input of [key, field]) {
        input.addEventListener("input", commit);
        input.addEventListener("change", () => this.host.rest());
      }
      rows.push(row);
      box.append(line);
      return key;
    };
    entries.forEach(([name, value]) => add(name, value));
    const more = button(`Add ${one}`, () => add("", "").focus(), { class: "small", id: idOf(path) });
    return el("div", { class: "field list", role: "group", "aria-label": title, "data-path": pathOf(path) },
      el("span", { class: "title" }, title), box, more, shape.about ? el("p", { class: "about" }, plain(shape.about)) : null, el("p", { class: "fault" }));
  }

  // A fault of this field itself, which the document does not show.
  say(path, fault) {
    if (fault) this.faults.set(pathOf(path), fault);
    else this.faults.delete(pathOf(path));
    this.host.faulty();
  }
}

// Puts each problem at the field that has it, or at the nearest around it. Returns those that no field is near to.
export function showProblems(pane, problems, faults) {
  const places = [...pane.querySelectorAll("[data-path]")];
  for (const place of places) {
    const fault = place.querySelector(":scope > .fault");
    if (fault && fault.textContent) fault.textContent = "";
    place.querySelector(":scope > [aria-invalid]")?.removeAttribute("aria-invalid");
  }
  const all = [...[...faults].map(([path, message]) => ({ path, message })), ...problems.filter((each) => !faults.has(each.path))];
  return all.filter(({ path, message }) => {
    const near = places.filter((place) => isWithin(path, place.dataset.path)).sort((a, b) => b.dataset.path.length - a.dataset.path.length)[0];
    const fault = near?.querySelector(":scope > .fault");
    if (!fault) return true;
    const rest = path.slice(near.dataset.path.length).replace(/^\./, "");
    fault.textContent = [fault.textContent, `${rest ? `${rest}: ` : ""}${message}`].filter(Boolean).join("; ");
    near.querySelector(":scope > input, :scope > textarea, :scope > select")?.setAttribute("aria-invalid", "true");
    for (let around = near.parentElement?.closest("details"); around; around = around.parentElement?.closest("details")) around.open = true;
    return false;
  });
}
