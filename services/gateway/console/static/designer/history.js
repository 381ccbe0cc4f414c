// Every state of a document that can be gone back to, up to MOST. Pure but for itself.

const MOST = 200;

export class History {
  constructor(doc) {
    this.past = [];
    this.doc = doc;
    this.future = [];
    this.mark = "";
  }

  // Changes with the same mark, one right after the other, are undone together: a word, not its letters.
  commit(doc, mark = "") {
    if (doc === this.doc) return;
    if (!mark || mark !== this.mark) this.past = [...this.past, this.doc].slice(-MOST);
    this.doc = doc;
    this.future = [];
    this.mark = mark;
  }

  // The next change is undone by itself.
  rest() {
    this.mark = "";
  }

  undo() {
    if (!this.past.length) return false;
    this.future = [this.doc, ...this.future];
    this.doc = this.past.pop();
    this.mark = "";
    return true;
  }

  redo() {
    if (!this.future.length) return false;
    this.past = [...this.past, this.doc];
    [this.doc, ...this.future] = this.future;
    this.mark = "";
    return true;
  }
}
