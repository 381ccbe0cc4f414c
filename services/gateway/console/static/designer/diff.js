// The lines that differ between two texts (Myers). Pure.

const FAR = 4_000; // differences from which on all that lies between is shown as replaced

// [{ op: " ", "-" or "+", text }]
export function diff(before, after) {
  const [a, b] = [before.split("\n"), after.split("\n")];
  let head = 0, tail = 0;
  while (head < a.length && head < b.length && a[head] === b[head]) head++;
  while (tail < a.length - head && tail < b.length - head && a.at(-1 - tail) === b.at(-1 - tail)) tail++;
  const same = (text) => ({ op: " ", text });
  return [
    ...a.slice(0, head).map(same),
    ...between(a.slice(head, a.length - tail), b.slice(head, b.length - tail)),
    ...a.slice(a.length - tail).map(same),
  ];
}

function between(a, b) {
  const [n, m] = [a.length, b.length];
  const trace = [];
  let best = { 1: 0 };
  for (let d = 0; d <= Math.min(n + m, FAR); d++) {
    trace.push(best);
    const next = { ...best };
    for (let k = -d; k <= d; k += 2) {
      let x = k === -d || (k !== d && (best[k - 1] ?? -1) < (best[k + 1] ?? -1)) ? best[k + 1] : best[k - 1] + 1;
      while (x < n && x - k < m && a[x] === b[x - k]) x++;
      next[k] = x;
      if (x >= n && x - k >= m) return walk(a, b, trace);
    }
    best = next;
  }
  return [...a.map((text) => ({ op: "-", text })), ...b.map((text) => ({ op: "+", text }))];
}

function walk(a, b, trace) {
  const found = [];
  let [x, y] = [a.length, b.length];
  for (let d = trace.length - 1; d >= 0; d--) {
    const best = trace[d];
    const k = x - y;
    const from = k === -d || (k !== d && (best[k - 1] ?? -1) < (best[k + 1] ?? -1)) ? k + 1 : k - 1;
    const startX = d ? best[from] : 0;
    const startY = d ? startX - from : 0;
    const [midX, midY] = d ? (from === k + 1 ? [startX, startY + 1] : [startX + 1, startY]) : [0, 0];
    while (x > midX && y > midY) found.push({ op: " ", text: a[--x] }), y--;
    if (!d) break;
    if (from === k + 1) found.push({ op: "+", text: b[--y] });
    else found.push({ op: "-", text: a[--x] });
  }
  return found.reverse();
}

// Only what differs, with `around` lines of what is about it; null where lines are left out.
export function folded(lines, around = 3) {
  const near = new Set(lines.flatMap((line, n) => (line.op === " " ? [] : Array.from({ length: 2 * around + 1 }, (_, k) => n - around + k))));
  const shown = [];
  lines.forEach((line, n) => {
    if (near.has(n)) shown.push(line);
    else if (shown.at(-1) !== null) shown.push(null);
  });
  return near.size ? shown : [];
}
