// The pane of test runs: starts one by the workflow's name, and shows each step's request, answer and state as it goes.

import { badge, button, el } from "./dom.js";
import { read } from "./json.js";

const BETWEEN = 700; // ms between looks at a run that is not over
const LATER = 5_000; // ms after a look that failed
const MOST_JOBS = 100; // whose request and answer are fetched

// `host` has: api, ready() → { name, version } or null, states(Map), say(words).
export class Trial {
  constructor(pane, host) {
    this.host = host;
    this.timer = 0;
    this.run = null;
    this.jobs = new Map(); // id → { state, found }
    this.input = el("textarea", { id: "try-input", rows: 5, class: "json", spellcheck: "false", value: "{}" });
    this.metadata = el("input", { id: "try-metadata", type: "text", autocomplete: "off", placeholder: "user=u1, campaign=c9" });
    this.fault = el("p", { class: "fault", role: "alert" });
    this.shown = el("div", { class: "trial", "aria-live": "off" });
    this.start = button("Start a run", () => this.begin(), { class: "main", id: "start" });
    pane.append(
      el("div", { class: "field" }, el("label", { for: "try-input" }, "Input, as JSON"), this.input),
      el("div", { class: "field" }, el("label", { for: "try-metadata" }, "Attributes"), this.metadata, el("p", { class: "about" }, "Templates read them as context.NAME.")),
      this.start, this.fault, this.shown);
    document.addEventListener("visibilitychange", () => document.hidden || this.look(0));
  }

  async begin() {
    const input = this.input.value.trim() || "null";
    const { fault } = read(input);
    this.fault.textContent = fault ? `The input is not JSON: ${fault}` : "";
    if (fault || this.start.disabled) return;
    this.start.disabled = true;
    try {
      const stored = await this.host.ready();
      if (!stored) return;
      this.jobs.clear();
      this.show(await this.host.api.post("run", { workflow: stored.name, version: stored.version, input, metadata: this.metadata.value }));
      this.look(BETWEEN);
    } catch (error) {
      this.fault.textContent = error.message;
    } finally {
      this.start.disabled = false;
    }
  }

  look(after) {
    clearTimeout(this.timer);
    if (this.run && !this.run.final && !document.hidden) this.timer = setTimeout(() => this.poll(), after);
  }

  async poll() {
    const { id } = this.run;
    let after = BETWEEN;
    try {
      const found = await this.host.api.get(`runs/${id}`);
      if (this.run.id !== id) return;
      await this.fetch(found);
      this.fault.textContent = "";
      this.show(found);
    } catch (error) {
      this.fault.textContent = error.message;
      after = LATER;
    }
    this.look(after);
  }

  // The jobs whose state is not the one that was fetched.
  async fetch(run) {
    const news = run.steps.flatMap((step) => step.jobs).filter((job) => job.id && this.jobs.get(job.id)?.state !== job.state);
    await Promise.all(news.slice(0, MOST_JOBS).map(async (job) => {
      const found = await this.host.api.get(`jobs/${job.id}`).catch((error) => ({ fault: error.message }));
      this.jobs.set(job.id, { state: found.fault ? "" : job.state, found });
    }));
  }

  async act(path, fields, done) {
    try {
      await this.host.api.post(`runs/${this.run.id}/${path}`, fields);
      this.host.say(done);
    } catch (error) {
      this.fault.textContent = error.message;
    }
    this.look(0);
  }

  show(run) {
    this.run = run;
    this.host.states(new Map(run.steps.map((step) => [step.name, step.state === "pending" ? "" : step.state])));
    const top = this.part("top", JSON.stringify([run.state, run.waiting, run.signals, run.error, run.output, run.logs]), () => this.top(run));
    const steps = run.steps.map((step) => this.part(`step ${step.name}`, JSON.stringify([step, step.jobs.map((job) => this.jobs.get(job.id))]), () => this.step(step)));
    const parts = [top, ...steps];
    if (parts.some((part, n) => this.shown.children[n] !== part) || this.shown.children.length !== parts.length) this.shown.replaceChildren(...parts);
  }

  // An unchanged part keeps its element, with all that is open, typed or selected in it.
  part(key, state, make) {
    this.parts ??= new Map();
    const there = this.parts.get(key);
    if (there?.state === `${this.run.id} ${state}`) return there.element;
    const element = make();
    this.parts.set(key, { state: `${this.run.id} ${state}`, element });
    return element;
  }

  top(run) {
    const signals = run.signals.map((name) => {
      const payload = el("input", { type: "text", value: "", placeholder: "payload as JSON", "aria-label": `Payload of ${name}`, autocomplete: "off" });
      return el("div", { class: "item" }, payload, button(`Send ${name}`, () => this.act("signal", { name, payload: payload.value }, `Sent the signal ${name}.`)));
    });
    return el("section", { class: "run-top" },
      el("p", {}, badge(run.state), run.waiting ? [" ", badge("waiting")] : null, " ", el("a", { href: `/runs/${run.id}` }, "its page"), ` of version ${run.version}`,
        run.final ? null : [" ", button("Cancel", () => this.act("cancel", {}, "The run is being cancelled."), { class: "small danger" })]),
      signals,
      run.error ? el("p", { class: "fault" }, `${run.error.type}: ${run.error.message}`) : null,
      run.output ? this.value("Output", run.output) : null,
      run.logs.length ? el("details", {}, el("summary", {}, `Log (${run.logs.length})`), el("pre", { tabindex: 0 }, run.logs.join("\n"))) : null);
  }

  step(step) {
    const facts = [step.iteration > 1 ? `began ${step.iteration} times` : "", step.took ? `took ${step.took}` : "", step.until ? `until ${step.until}` : ""].filter(Boolean).join(", ");
    return el("section", { class: `run-step ${step.state.replaceAll(" ", "-")}`, "data-step": step.name, "aria-label": `Step ${step.name}` },
      el("h3", {}, step.name, " ", badge(step.state), facts ? el("small", {}, facts) : null),
      step.error ? el("p", { class: "fault" }, `${step.error.type}: ${step.error.message}`) : null,
      step.more ? el("p", { class: "about" }, `${step.more} older jobs are on the run's page.`) : null,
      step.jobs.map((job) => this.job(job)));
  }

  job(job) {
    if (job.run) return el("p", {}, el("a", { href: `/runs/${job.run}` }, job.task), " ", badge(job.state));
    const found = this.jobs.get(job.id)?.found;
    return el("div", { class: "run-job" },
      el("p", {}, el("a", { href: `/jobs/${job.id}` }, job.task || "job"), " ", badge(job.state), found && found.attempt > 1 ? ` try ${found.attempt}` : ""),
      found?.fault ? el("p", { class: "fault" }, found.fault) : found ? [
        this.value("Request", found.request),
        found.answer ? this.value("Answer", found.answer) : null,
        found.error && !found.answer ? el("p", { class: "fault" }, `${found.error.type}: ${found.error.message}`) : null,
      ] : null);
  }

  value(title, shown) {
    return el("details", { open: shown.text.length < 2_000 }, el("summary", {}, `${title} `, el("small", {}, `${shown.kind}, ${shown.size}${shown.cut ? ", cut" : ""}`)), el("pre", { tabindex: 0, "aria-label": title }, shown.text));
  }
}
