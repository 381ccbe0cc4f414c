// Changes of a document. Pure: each returns another document, and leaves the one that it was given alone.

export const list = (value) => (Array.isArray(value) ? value : []);
export const nameOf = (part) => (typeof part?.name === "string" ? part.name : "");
export const stepsOf = (doc) => list(doc?.steps);
export const edgesOf = (doc) => list(doc?.edges);
export const groupsOf = (doc) => list(doc?.groups);
export const namesOf = (doc) => [...new Set([...stepsOf(doc), ...groupsOf(doc)].map(nameOf).filter(Boolean))];

export function getAt(value, path) {
  for (const part of path) {
    if (value === null || typeof value !== "object" || !Object.hasOwn(value, part)) return undefined;
    value = value[part];
  }
  return value;
}

// With `value` at `path`; undefined takes it away. Objects on the way are made.
export function setAt(doc, path, value) {
  if (!path.length) return value;
  const [part, ...rest] = path;
  const inner = setAt(doc?.[part], rest, value);
  if (typeof part === "number") {
    const copy = [...list(doc)];
    if (inner === undefined) copy.splice(part, 1);
    else copy[part] = inner;
    return copy;
  }
  const entries = Object.entries(doc !== null && typeof doc === "object" && !Array.isArray(doc) ? doc : {});
  const at = entries.findIndex(([name]) => name === part);
  if (inner === undefined) return at < 0 ? doc : Object.fromEntries(entries.filter((_, n) => n !== at));
  if (at < 0) entries.push([part, inner]);
  else entries[at] = [part, inner];
  return Object.fromEntries(entries);
}

export function move(doc, path, from, to) {
  const copy = [...list(getAt(doc, path))];
  copy.splice(to, 0, ...copy.splice(from, 1));
  return setAt(doc, path, copy);
}

export function freeName(doc, wanted) {
  const taken = new Set(namesOf(doc));
  if (!taken.has(wanted)) return wanted;
  for (let n = 2; ; n++) if (!taken.has(`${wanted}-${n}`)) return `${wanted}-${n}`;
}

// `step` with a name that is free, after the step or group `after` on `on`, if it is given.
export function addStep(doc, step, after = "", on = "success") {
  const name = freeName(doc, step.name);
  const grown = setAt(doc, ["steps"], [...stepsOf(doc), { ...step, name }]);
  return after ? connect(grown, after, name, on) : grown;
}

// The edge between the two leads on `on` from now on; another is not added.
export function connect(doc, from, to, on) {
  const edges = edgesOf(doc);
  const at = edges.findIndex((edge) => edge?.from === from && edge?.to === to);
  const edge = on === "success" ? { from, to } : { from, to, on };
  return setAt(doc, ["edges"], at < 0 ? [...edges, edge] : edges.map((each, n) => (n === at ? edge : each)));
}

export function removeEdge(doc, index) {
  const edges = edgesOf(doc).filter((_, n) => n !== index);
  return setAt(doc, ["edges"], edges.length ? edges : undefined);
}

// Without the step, and without all that names it.
export function removeStep(doc, index) {
  const name = nameOf(stepsOf(doc)[index]);
  const without = setAt(doc, ["steps"], stepsOf(doc).filter((_, n) => n !== index));
  const twin = stepsOf(without).some((step) => nameOf(step) === name);
  return twin || !name ? without : forget(without, name);
}

export function removeGroup(doc, index) {
  const name = nameOf(groupsOf(doc)[index]);
  const groups = groupsOf(doc).filter((_, n) => n !== index);
  return forget(setAt(doc, ["groups"], groups.length ? groups : undefined), name);
}

function forget(doc, name) {
  const others = (names) => list(names).filter((each) => each !== name);
  let left = doc;
  if (doc.edges) {
    const edges = edgesOf(doc).filter((edge) => edge?.from !== name && edge?.to !== name);
    left = setAt(left, ["edges"], edges.length ? edges : undefined);
  }
  left = setAt(left, ["steps"], stepsOf(left).map((step) => {
    if (!list(step?.depends_on).includes(name)) return step;
    const needs = others(step.depends_on);
    return setAt(step, ["depends_on"], needs.length ? needs : undefined);
  }));
  if (list(doc.start).includes(name)) {
    const start = others(doc.start);
    left = setAt(left, ["start"], start.length ? start : undefined);
  }
  const emptied = [];
  if (doc.groups) {
    const groups = groupsOf(doc).map((group) => (list(group?.steps).includes(name) ? setAt(group, ["steps"], others(group.steps)) : group));
    const kept = groups.filter((group, n) => list(group?.steps).length || !list(groupsOf(doc)[n]?.steps).length);
    emptied.push(...groups.filter((group) => !kept.includes(group)).map(nameOf));
    left = setAt(left, ["groups"], kept.length ? kept : undefined);
  }
  return emptied.reduce(forget, left);
}

// With another name for a step or a group, wherever it is named: in edges, dependencies, groups, templates.
export function rename(doc, path, to) {
  const from = getAt(doc, [...path, "name"]);
  const named = setAt(doc, [...path, "name"], to);
  const twin = namesOf(named).includes(from);
  if (typeof from !== "string" || !from || twin) return named;
  const other = (name) => (name === from ? to : name);
  const names = (value) => (Array.isArray(value) ? value.map(other) : value);
  const within = (part, key) => (part && part[key] !== undefined ? { ...part, [key]: names(part[key]) } : part);
  let made = { ...named };
  if (made.start) made.start = names(made.start);
  if (made.edges) made.edges = edgesOf(made).map((edge) => (edge && typeof edge === "object" ? mapped(edge, other) : edge));
  if (made.groups) made.groups = groupsOf(made).map((group) => within(group, "steps"));
  made.steps = stepsOf(made).map((step) => {
    const moved = within(step, "depends_on");
    return moved?.meta === undefined ? moved : { ...moved, meta: inTemplates(moved.meta, from, to) };
  });
  if (made.output !== undefined) made.output = inTemplates(made.output, from, to);
  return made;
}

function mapped(edge, other) {
  return Object.fromEntries(Object.entries(edge).map(([key, value]) => [key, key === "from" || key === "to" ? other(value) : value]));
}

function inTemplates(value, from, to) {
  if (typeof value === "string") {
    return value.replace(/\{\{.*?\}\}/gs, (template) => template.replace(/\bsteps\.(?:"([^"]+)"|([A-Za-z0-9_]+))/g,
      (whole, quoted, bare) => ((quoted ?? bare) === from ? `steps.${/^[A-Za-z_]\w*$/.test(to) ? to : JSON.stringify(to)}` : whole)));
  }
  if (Array.isArray(value)) return value.map((each) => inTemplates(each, from, to));
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, inTemplates(each, from, to)]));
}

// The graph of a document. Ids are those of the parts: step:0, group:0, edge:0.
export function graphOf(doc) {
  const nodes = stepsOf(doc).map((step, index) => ({ id: `step:${index}`, what: "step", index, name: nameOf(step), kind: String(step?.kind ?? "") }));
  const groups = groupsOf(doc).map((group, index) => ({ id: `group:${index}`, what: "group", index, name: nameOf(group), kind: "group" }));
  const all = [...nodes, ...groups];
  const ids = new Map(all.map((node) => [node.name, node.id]).reverse());
  const links = [];
  const link = (id, from, to, on) => {
    const [source, target] = [ids.get(from), ids.get(to)];
    if (source && target && source !== target) links.push({ id, source, target, on });
  };
  edgesOf(doc).forEach((edge, n) => link(`edge:${n}`, edge?.from, edge?.to, edge?.on ?? "success"));
  stepsOf(doc).forEach((step, n) => list(step?.depends_on).forEach((name, m) => link(`needs:${n}:${m}`, name, nameOf(step), "needs")));
  groupsOf(doc).forEach((group, n) => {
    const members = new Set(list(group?.steps));
    const inner = new Set(links.filter((each) => members.has(nameById(all, each.target))).map((each) => each.source));
    list(group?.steps).filter((name) => !inner.has(ids.get(name))).forEach((name, m) => link(`member:${n}:${m}`, name, nameOf(group), "member"));
  });
  return { nodes: all, links };
}

const nameById = (nodes, id) => nodes.find((node) => node.id === id)?.name;

// steps[2].meta.calls[0].url as ["steps", 2, "meta", "calls", 0, "url"].
export function partsOf(path) {
  return [...path.matchAll(/\[(\d+)\]|([^.[\]]+)/g)].map(([, index, name]) => (index === undefined ? name : Number(index)));
}

export const pathOf = (parts) => parts.reduce((path, part) => (typeof part === "number" ? `${path}[${part}]` : path ? `${path}.${part}` : part), "");

// Whether `path` is `place` or inside it.
export const isWithin = (path, place) => path === place || (path.startsWith(place) && (place === "" || ".[".includes(path[place.length])));
