// JSON as people write it: where it is wrong, and whether a browser would change its numbers. Pure.

// The value of a text, or why there is none: { value } or { fault, line }.
export function read(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    return { fault: error.message, line: lineOf(text, error.message) };
  }
  const number = roundedIn(text);
  if (number) return { fault: `a browser cannot hold the number ${number} exactly; write it as text`, line: 0 };
  return { value };
}

export function write(value) {
  return JSON.stringify(value, null, 2);
}

function lineOf(text, message) {
  const at = /position (\d+)/.exec(message);
  return at ? text.slice(0, Number(at[1])).split("\n").length : 0;
}

// The first number that would come out as another one, as 12345678901234567890 does; "" if there is none.
export function roundedIn(text) {
  const tokens = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;
  for (const [token] of text.matchAll(tokens)) {
    if (token[0] !== '"' && digits(token) !== digits(String(Number(token)))) return token;
  }
  return "";
}

// A number's digits and power of ten, the same for all ways to write it.
function digits(text) {
  const [, sign, whole, part = "", power = "0"] = /^(-?)(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?$/.exec(text) ?? [];
  if (whole === undefined) return text; // Infinity
  const all = (whole + part).replace(/^0+/, "");
  const kept = all.replace(/0+$/, "");
  return kept ? `${sign}${kept}e${Number(power) - part.length + (all.length - kept.length)}` : "0";
}

// A value of any type in one field. Text stands as it is, unless it would be read as something else.
export function writeAny(value) {
  if (value === undefined) return "";
  if (typeof value === "string") return readAny(value).value === value ? value : JSON.stringify(value);
  return value !== null && typeof value === "object" ? write(value) : JSON.stringify(value);
}

// { value } or { fault }: what begins like an object or a list must be one; what is not JSON is text.
export function readAny(text) {
  const word = text.trim();
  if (word === "") return { value: undefined };
  const found = read(word);
  if (!("fault" in found)) return found;
  const begun = /^[{["]/.test(word) && !word.startsWith("{{");
  return begun ? { fault: `is not JSON yet: ${found.fault}` } : { value: text };
}
