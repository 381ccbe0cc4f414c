// A JSON Schema as fields that a form can show. Pure.

const LONG = 5_000; // characters from which on a text gets several lines

export class Schema {
  constructor(root) {
    this.root = root;
  }

  at(reference) {
    return reference.replace("#/", "").split("/").reduce((part, name) => part?.[name], this.root);
  }

  // By kind: the schema of its steps.
  get kinds() {
    const found = this.root.properties.steps.items;
    const known = (found.oneOf ?? [found]).map((each) => this.at(each.$ref));
    return Object.fromEntries(known.map((schema) => [schema.properties.kind.const, schema]));
  }

  // { type, optional, about, … } of a schema: string, long, enum, boolean, number, object, list, map or any.
  shape(schema) {
    const { $ref, anyOf, ...own } = schema ?? {};
    const whole = $ref ? { ...this.at($ref), ...own } : own;
    if ($ref && !anyOf) return this.shape(whole);
    const about = own.description ?? "";
    if (anyOf) {
      const real = anyOf.filter((each) => each.type !== "null");
      const optional = real.length < anyOf.length;
      if (real.length === 1) {
        const inner = this.shape(real[0]);
        const both = [about, inner.about].filter(Boolean);
        return { ...inner, about: inner.type === "object" ? both[0] ?? "" : joined(both), optional };
      }
      const inner = real.flatMap((each) => each.description ?? []).join(" ");
      return { type: "any", about: [about, inner].filter(Boolean).join(" "), optional, choices: real.flatMap((each) => each.enum ?? []), default: own.default };
    }
    const base = { about, default: own.default };
    if (own.enum) return { ...base, type: "enum", choices: own.enum };
    switch (own.type) {
      case "string": return { ...base, type: (own.maxLength ?? 0) >= LONG && !/url/i.test(own.title ?? "") ? "long" : "string" };
      case "integer":
      case "number": return { ...base, type: "number" };
      case "boolean": return { ...base, type: "boolean" };
      case "array": return { ...base, type: "list", items: own.items ?? {} };
      case "object":
        if (own.properties) return { ...base, type: "object", fields: own.properties, required: own.required ?? [] };
        return { ...base, type: "map", values: own.patternProperties ? Object.values(own.patternProperties)[0] : own.additionalProperties || {} };
    }
    return { ...base, type: "any", choices: [] };
  }

  // A value to begin with: what must be there, empty.
  empty(schema) {
    const shape = this.shape(schema);
    switch (shape.type) {
      case "object": return Object.fromEntries(shape.required.flatMap((name) => {
        const inner = this.shape(shape.fields[name]);
        if (shape.fields[name].const !== undefined) return [[name, shape.fields[name].const]];
        if (inner.type === "enum") return [[name, inner.choices[0]]];
        if (inner.type === "list") return [[name, [this.empty(inner.items)]]];
        return inner.type === "string" || inner.type === "long" ? [[name, ""]] : inner.type === "object" ? [[name, this.empty(shape.fields[name])]] : [];
      }));
      case "list": return [];
      case "map": return {};
      case "enum": return shape.choices[0];
      case "number": return 0;
      case "boolean": return false;
    }
    return "";
  }
}

const joined = (both) => both.join(" ").replace(/\. (?=[a-z])/, ": ");

// The name of one item of a list.
export const single = (title) => title.replace(/([^su])s$/, "$1").toLowerCase();

export const label = (key) => (key[0].toUpperCase() + key.slice(1)).replaceAll("_", " ");
