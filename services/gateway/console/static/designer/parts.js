// The forms of a workflow's parts: of the workflow itself, a step, a group, a connection.

import * as edit from "./document.js";
import { button, el } from "./dom.js";
import { plain } from "./form.js";
import { label } from "./schema.js";

const FIRST = ["name", "title"]; // of a step, before what is its kind's own
const OF_WORKFLOW = ["name", "title", "description", "app_url"];

export function formOf(designer, found) {
  const properties = designer.schema.root.properties;
  const items = (key) => properties[key].items;
  if (found?.what === "step") return stepForm(designer, found);
  if (found?.what === "group") return whole(designer, found, `Group ${found.name}`, items("groups"), Object.keys(designer.schema.at(items("groups").$ref).properties));
  if (found?.what === "edge") return edgeForm(designer, found);
  const rest = Object.keys(properties).filter((key) => ![...OF_WORKFLOW, "steps", "edges"].includes(key));
  return [
    el("h2", {}, "Workflow"),
    el("div", { "data-path": "" }, el("p", { class: "fault" }), designer.form.fields([], designer.schema.root, OF_WORKFLOW), designer.form.fields([], designer.schema.root, rest)),
    designer.saving.base.name ? el("p", {}, button("Delete this workflow", () => designer.saving.remove(), { class: "danger", id: "delete-workflow" })) : null,
  ].filter(Boolean);
}

function whole(designer, found, title, schema, keys) {
  const path = [found.key, found.index];
  return [el("h2", {}, title), el("div", { "data-path": edit.pathOf(path) }, el("p", { class: "fault" }), designer.form.fields(path, schema, keys))];
}

function stepForm(designer, found) {
  const schema = designer.schema.kinds[found.part.kind];
  const path = ["steps", found.index];
  const title = el("h2", {}, found.name || "A step", " ", el("small", {}, String(found.part.kind ?? "")));
  if (!schema) return [title, el("div", { "data-path": edit.pathOf(path) }, el("p", { class: "fault" }), el("p", { class: "about" }, "This kind is not known here: change it in the JSON."))];
  const meta = designer.schema.shape(schema.properties.meta);
  const rest = Object.keys(schema.properties).filter((key) => ![...FIRST, "kind", "meta"].includes(key));
  const used = rest.some((key) => found.part[key] !== undefined);
  return [
    title,
    el("p", { class: "about" }, plain(schema.description ?? "")),
    el("div", { "data-path": edit.pathOf(path) },
      el("p", { class: "fault" }),
      designer.form.fields(path, schema, FIRST),
      el("div", { "data-path": edit.pathOf([...path, "meta"]) }, el("p", { class: "fault" }), designer.form.fields([...path, "meta"], schema.properties.meta, Object.keys(meta.fields))),
      connections(designer, found),
      el("details", { open: used }, el("summary", {}, rest.length > 1 ? rest.slice(0, 4).map(label).join(", ") + (rest.length > 4 ? " …" : "") : label(rest[0] ?? "")), designer.form.fields(path, schema, rest))),
  ];
}

// The connections from and to a step: all that the graph can do, without the graph.
function connections(designer, found) {
  const edges = edit.edgesOf(designer.doc).map((edge, index) => ({ edge, index })).filter(({ edge }) => edge?.from === found.name || edge?.to === found.name);
  const row = ({ edge, index }) => el("div", { class: "item", "data-path": edit.pathOf(["edges", index]) },
    button(edge.from === found.name ? `→ ${edge.to}` : `← ${edge.from}`, () => designer.choose(`edge:${index}`), { class: "small link-button" }),
    el("small", {}, edge.on === "always" ? "always" : `on ${edge.on ?? "success"}`),
    button("Delete", () => designer.change(edit.removeEdge(designer.doc, index), "Deleted the connection."), { class: "small", "aria-label": `Delete the connection from ${edge.from} to ${edge.to}` }),
    el("p", { class: "fault" }));
  const names = edit.stepsOf(designer.doc).map(edit.nameOf).filter((name) => name && name !== found.name);
  const to = el("select", { id: "next-step", "aria-label": "The step that follows" }, names.map((name) => el("option", {}, name)));
  const on = el("select", { id: "next-on", "aria-label": "On which outcome" }, ["success", "failure", "always"].map((each) => el("option", {}, each)));
  return el("fieldset", {}, el("legend", {}, "Connections"), edges.map(row),
    names.length ? el("div", { class: "item" }, to, on, button("Connect", () => designer.change(edit.connect(designer.doc, found.name, to.value, on.value), `${to.value} follows ${found.name}.`), { class: "small", id: "next" })) : el("p", { class: "about" }, "There is no other step yet."));
}

function edgeForm(designer, found) {
  const path = ["edges", found.index];
  const names = edit.namesOf(designer.doc);
  const choice = (key, choices) => {
    const given = String(found.part[key] ?? (key === "on" ? "success" : ""));
    const select = el("select", {}, [...new Set([...choices, given])].map((each) => el("option", {}, each)));
    select.value = given;
    select.addEventListener("change", () => designer.change(edit.setAt(designer.doc, [...path, key], key === "on" && select.value === "success" ? undefined : select.value)));
    return designer.form.wrapped([...path, key], label(key), "", true, select);
  };
  return [
    el("h2", {}, "Connection"),
    el("div", { "data-path": edit.pathOf(path) }, el("p", { class: "fault" }), choice("from", names), choice("to", edit.stepsOf(designer.doc).map(edit.nameOf)), choice("on", ["success", "failure", "always"])),
    button("Delete", () => designer.remove(designer.chosen), { class: "danger" }),
  ];
}
