// Elements from names, attributes and what is in them. Text is text: nothing is ever read as HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, inside) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked") node[name] = value;
    else if (value !== undefined && value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...inside.flat(9).filter((each) => each !== undefined && each !== null && each !== false));
  return node;
}

export const el = (tag, attributes, ...inside) => fill(document.createElement(tag), attributes, inside);
export const svg = (tag, attributes, ...inside) => fill(document.createElementNS(SVG, tag), attributes, inside);
export const button = (label, press, attributes) => el("button", { type: "button", onclick: press, ...attributes }, label);
export const badge = (word) => el("span", { class: `badge ${word.replaceAll(" ", "-")}` }, word);
