async (folder) => {
  const { diff, folded } = await import(folder + "diff.js");
  const { readAny, writeAny, roundedIn } = await import(folder + "json.js");
  const { layout, WIDTH, HEIGHT } = await import(folder + "layout.js");
  const { History } = await import(folder + "history.js");
  const edit = await import(folder + "document.js");
  const wrong = [];
  const must = (holds, what) => holds || wrong.push(what);
  let seed = 7;
  const random = (most) => (seed = (seed * 48271) % 2147483647) % most;
  for (let n = 0; n < 500; n++) {
    const text = () => Array.from({ length: random(12) }, () => "abc"[random(3)]).join("\n");
    const [a, b] = [text(), text()];
    const without = (op) => diff(a, b).filter((line) => line.op !== op).map((line) => line.text).join("\n");
    must(without("+") === a && without("-") === b, `diff ${JSON.stringify([a, b])}`);
  }
  must(folded(diff("a\nb", "a\nb")).length === 0, "no difference");
  for (let n = 0; n < 60; n++) {
    const nodes = Array.from({ length: 1 + random(25) }, (_, id) => ({ id: `n${id}` }));
    const links = Array.from({ length: random(40) }, (_, id) => ({ id: `l${id}`, source: `n${random(nodes.length)}`, target: `n${random(nodes.length)}` })).filter((link) => link.source !== link.target);
    const drawn = layout(nodes, links);
    const boxes = [...drawn.boxes.values()];
    const apart = (p, q) => Math.abs(p.x - q.x) >= WIDTH || Math.abs(p.y - q.y) >= HEIGHT;
    must(boxes.every((p, k) => boxes.every((q, m) => k === m || apart(p, q))), `boxes overlap: ${JSON.stringify(links)}`);
    must(boxes.every((p) => p.x >= 0 && p.x + WIDTH <= drawn.width && p.y >= 0 && p.y + HEIGHT <= drawn.height), "outside");
    must(links.every((link) => drawn.paths.get(link.id)), "a link is not drawn");
  }
  for (const value of ["x", "", " ", "5", 5, -0.5, "{{ a }}", '{"a":1}', { a: [1] }, null, true, "true", "[x", '"q']) {
    must(JSON.stringify(readAny(writeAny(value)).value) === JSON.stringify(value), `any ${JSON.stringify(value)}`);
  }
  must("fault" in readAny('{"a": ') && "fault" in readAny("[1"), "half of an object");
  for (const number of ["1", "1.0", "0.1", "1e3", "-0", "100", "1.50"]) must(roundedIn(`[${number}]`) === "", `${number} is exact`);
  for (const number of ["12345678901234567890", "0.30000000000000001", "1e400"]) must(roundedIn(`{"12e400": ${number}}`) === number, `${number} is rounded`);
  const doc = { name: "w", start: ["a"], steps: [{ name: "a" }, { name: "b", depends_on: ["a", "g"] }], groups: [{ name: "g", steps: ["a"] }], edges: [{ from: "g", to: "b", on: "failure" }] };
  const before = JSON.stringify(doc);
  const gone = edit.removeStep(doc, 0);
  must(JSON.stringify(gone) === '{"name":"w","steps":[{"name":"b"}]}', `removed: ${JSON.stringify(gone)}`);
  const named = edit.rename(doc, ["groups", 0], "other");
  must(named.edges[0].from === "other" && named.steps[1].depends_on[1] === "other" && !edit.namesOf(named).includes("g"), "renamed group");
  must(edit.connect(doc, "g", "b", "always").edges.length === 1 && edit.connect(doc, "a", "b", "success").edges.length === 2, "connected");
  for (const strange of [null, 1, [], { steps: 1, edges: "x", groups: [null] }, { steps: [null, 1, { name: 2, depends_on: 1 }], edges: [null, { from: 1 }] }]) {
    const drawn = edit.graphOf(strange);
    must(layout(drawn.nodes, drawn.links).boxes.size === drawn.nodes.length, `strange ${JSON.stringify(strange)}`);
  }
  must(JSON.stringify(doc) === before, "an argument was changed");
  const past = new History(0);
  for (let n = 1; n <= 500; n++) past.commit(n);
  past.commit(501, "word");
  past.commit(502, "word");
  past.undo();
  must(past.doc === 500 && past.past.length <= 200, "history");
  return wrong;
}
