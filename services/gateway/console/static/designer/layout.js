// Places for boxes, and lines between them: in layers from top to bottom, as the other pages draw it (graph.py). Pure.

export const WIDTH = 188, HEIGHT = 52;
const GAP = 28, FALL = 52, LANE = 26, MARGIN = 18, SWEEPS = 6;

// nodes: [{ id }], links: [{ id, source, target }] → { width, height, boxes: Map(id → { x, y }), paths: Map(id → d) }
export function layout(nodes, links) {
  const names = nodes.map((node) => node.id);
  const layers = layersOf(names, links);
  const rows = [];
  const row = (n) => (rows[n] ??= []);
  names.forEach((name) => row(layers.get(name)).push(name));
  const chains = links.map((link, n) => {
    const [first, last] = [layers.get(link.source), layers.get(link.target)];
    const step = last >= first ? 1 : -1;
    const passed = [];
    for (let layer = first + step; first !== last && layer !== last; layer += step) {
      const place = `\0${n}\0${layer}`;
      row(layer).push(place);
      passed.push(place);
    }
    return [link.source, ...passed, link.target];
  });
  const near = new Map(rows.flat().map((name) => [name, []]));
  for (const chain of chains) {
    for (let n = 1; n < chain.length; n++) {
      near.get(chain[n - 1]).push(chain[n]);
      near.get(chain[n]).push(chain[n - 1]);
    }
  }
  order(rows, near);
  const wide = (name) => (name[0] === "\0" ? LANE : WIDTH);
  const centres = place(rows, near, wide);
  const left = Math.min(...[...centres].map(([name, x]) => x - wide(name) / 2), Infinity);
  const right = Math.max(...[...centres].map(([name, x]) => x + wide(name) / 2), -Infinity);
  const shift = names.length ? MARGIN - left : 0;
  const tops = new Map(rows.flatMap((each, n) => each.map((name) => [name, MARGIN + n * (HEIGHT + FALL)])));
  const at = (name) => centres.get(name) + shift;
  return {
    width: names.length ? right - left + 2 * MARGIN : 0,
    height: rows.length ? rows.length * (HEIGHT + FALL) - FALL + 2 * MARGIN : 0,
    boxes: new Map(names.map((name) => [name, { x: at(name) - WIDTH / 2, y: tops.get(name) }])),
    paths: new Map(links.map((link, n) => [link.id, path(chains[n], at, tops)])),
  };
}

// The layer of each: below all that lead to it. An edge that closes a circle does not count.
function layersOf(names, links) {
  const after = new Map(names.map((name) => [name, []]));
  links.forEach((link) => after.get(link.source).push(link.target));
  const state = new Map(), finished = [], back = new Set();
  for (const root of names) {
    const stack = state.has(root) ? [] : [[root, 0]];
    if (stack.length) state.set(root, 1);
    while (stack.length) {
      const top = stack.at(-1);
      const next = after.get(top[0])[top[1]++];
      if (next === undefined) {
        state.set(top[0], 2);
        finished.push(top[0]);
        stack.pop();
      } else if (!state.has(next)) {
        state.set(next, 1);
        stack.push([next, 0]);
      } else if (state.get(next) === 1) back.add(`${top[0]}\0${next}`);
    }
  }
  const layers = new Map(names.map((name) => [name, 0]));
  for (const name of finished.reverse()) {
    for (const next of after.get(name)) {
      if (!back.has(`${name}\0${next}`)) layers.set(next, Math.max(layers.get(next), layers.get(name) + 1));
    }
  }
  return layers;
}

// Sorts each row by where its neighbours in the row before stand, down and up again: fewer lines cross.
function order(rows, near) {
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    const down = sweep % 2 === 0;
    for (let k = 1; k < rows.length; k++) {
      const n = down ? k : rows.length - 1 - k;
      const other = new Map(rows[down ? n - 1 : n + 1].map((name, at) => [name, at]));
      const key = new Map(rows[n].map((name, at) => {
        const found = near.get(name).filter((each) => other.has(each)).map((each) => other.get(each));
        return [name, found.length ? found.reduce((a, b) => a + b) / found.length : at];
      }));
      rows[n].sort((a, b) => key.get(a) - key.get(b));
    }
  }
}

// The middle of each on its row: as near as can be to its neighbours', without touching the one beside it.
function place(rows, near, wide) {
  const centres = new Map();
  for (const row of rows) {
    let x = 0;
    for (const name of row) {
      centres.set(name, x + wide(name) / 2);
      x += wide(name) + GAP;
    }
    for (const name of row) centres.set(name, centres.get(name) - (x - GAP) / 2);
  }
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    for (const row of sweep % 2 ? [...rows].reverse() : rows) {
      const wanted = row.map((name) => {
        const found = near.get(name).map((each) => centres.get(each));
        return found.length ? found.reduce((a, b) => a + b) / found.length : centres.get(name);
      });
      const gaps = row.slice(1).map((name, n) => (wide(row[n]) + wide(name)) / 2 + GAP);
      spread(wanted, gaps).forEach((x, n) => centres.set(row[n], x));
    }
  }
  return centres;
}

// Places in the same order, `gaps` apart at least, whose squared distances from `wanted` add up to the least.
export function spread(wanted, gaps) {
  const offsets = [0];
  gaps.forEach((gap) => offsets.push(offsets.at(-1) + gap));
  const pools = []; // of those that touch: the mean of where they would stand, and how many
  wanted.forEach((want, n) => {
    let [mean, count] = [want - offsets[n], 1];
    while (pools.length && pools.at(-1)[0] >= mean) {
      const [other, many] = pools.pop();
      [mean, count] = [(mean * count + other * many) / (count + many), count + many];
    }
    pools.push([mean, count]);
  });
  return pools.flatMap(([mean, count]) => Array(count).fill(mean)).map((mean, n) => mean + offsets[n]);
}

function path(chain, at, tops) {
  const down = tops.get(chain.at(-1)) >= tops.get(chain[0]);
  const foot = (name) => tops.get(name) + (down ? HEIGHT : 0);
  const head = (name) => tops.get(name) + (down ? 0 : HEIGHT);
  let [x, y] = [at(chain[0]), foot(chain[0])];
  const words = [`M${x.toFixed(1)} ${y.toFixed(1)}`];
  chain.slice(1).forEach((name, n) => {
    const [toX, toY] = [at(name), head(name)];
    const middle = (y + toY) / 2;
    words.push(`C${x.toFixed(1)} ${middle.toFixed(1)} ${toX.toFixed(1)} ${middle.toFixed(1)} ${toX.toFixed(1)} ${toY.toFixed(1)}`);
    [x, y] = [toX, toY];
    if (n < chain.length - 2) words.push(`V${(y = foot(name)).toFixed(1)}`);
  });
  return words.join(" ");
}
