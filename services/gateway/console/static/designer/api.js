// The gateway's answers. A call that is refused is a Refusal with what the gateway said.

const TIMEOUT = 20_000; // ms

export class Refusal extends Error {
  constructor(status, said) {
    super(said?.error?.message ?? said?.problems?.[0]?.message ?? `the gateway answered ${status}`);
    this.status = status;
    this.reason = said?.error?.type ?? "";
    this.problems = said?.problems ?? [];
  }
}

export class Api {
  constructor(token) {
    this.token = token;
  }

  get(path, query = {}) {
    return this.call(`/designer/${path}?${new URLSearchParams(query)}`, {});
  }

  post(path, fields) {
    return this.call(`/designer/${path}`, { method: "POST", body: new URLSearchParams({ ...fields, form_token: this.token }) });
  }

  async call(url, options) {
    let answer, said;
    try {
      answer = await fetch(url, { ...options, headers: { Accept: "application/json" }, signal: AbortSignal.timeout(TIMEOUT) });
      said = await answer.json();
    } catch (error) {
      throw new Refusal(answer?.status ?? 0, { error: { message: `the gateway does not answer (${error.message})` } });
    }
    if (!answer.ok) throw new Refusal(answer.status, said);
    return said;
  }
}

// Calls `task` with the latest that was asked for, `rest` ms after the last change, one call at a time.
export class Latest {
  constructor(rest, task) {
    this.rest = rest;
    this.task = task;
    this.timer = 0;
    this.busy = false;
    this.waiting = false;
  }

  ask(rest = this.rest) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.go(), rest);
  }

  async go() {
    if (this.busy) {
      this.waiting = true;
      return;
    }
    this.busy = true;
    try {
      await this.task();
    } finally {
      this.busy = false;
      if (this.waiting) {
        this.waiting = false;
        this.ask(0);
      }
    }
  }
}
