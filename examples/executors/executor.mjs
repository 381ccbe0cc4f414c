// executor.mjs: runs tasks, and decides a workflow. Node 18 or newer, no packages.
import { setTimeout as sleep } from "node:timers/promises";

const url = process.env.RPC_URL ?? "http://localhost:8080/rpc";
const ACTION = "awf.workflow.action";

const tasks = {
  "orders/reserve": async ({ params }) => ({ reserved: params.item }),
  "orders/charge": async ({ params }) => {
    if (params.amount > 1000) throw new Error("the card has no such cover");
    return { charged: params.amount };
  },
  "orders/ship": async ({ params }) => ({ parcel: `${params.item} for ${params.to}` }),
};

const workflows = {
  // Reserves and charges at once, then ships.
  "orders/fulfil": async (decision) => {
    const run = { id: decision.requester.id, "include-activities?": true };
    const { resource, activities } = await rpc("awf.workflow/status", run);
    const { item, amount, to } = resource.params;
    if (decision.params.event === "awf.workflow.event/workflow-init")
      return [schedule("orders/reserve", { item }), schedule("orders/charge", { amount })];
    if (activities.some((task) => task.status !== "done")) return [];
    const failed = activities.find((task) => task.outcome !== "succeeded");
    if (failed) return { action: `${ACTION}/fail`, error: { message: `${failed.definition}: ${failed.error.message}` } };
    const shipped = activities.find((task) => task.definition === "orders/ship");
    if (!shipped) return schedule("orders/ship", { item, to });
    return { action: `${ACTION}/complete-workflow`, result: shipped.result };
  },
};

const schedule = (definition, params) => ({ action: `${ACTION}/schedule-task`, "task-request": { definition, params } });

async function rpc(method, params) {
  for (;;) {
    const call = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ method, params }) };
    const answer = await fetch(url, call).catch(() => undefined);
    if (answer && answer.status !== 503 && answer.status !== 429) {
      const { result, error } = await answer.json();
      if (error) throw new Error(`${error.type}: ${error.message}`);
      return result;
    }
    await sleep(1000); // somebody restarts, or is busy
  }
}

async function run(task) {
  const handler = tasks[task.definition] ?? workflows[task["workflow-definition"]];
  const attempt = { id: task.id, execId: task.execId };
  await rpc("awf.task/start", attempt);
  const heartbeat = () => rpc("awf.task/notify", { ...attempt, notification: "heartbeat" }).catch(() => {});
  const beating = setInterval(heartbeat, 30_000);
  try {
    const result = await handler(task);
    await rpc("awf.task/success", { ...attempt, result });
  } catch (error) {
    await rpc("awf.task/fail", { ...attempt, error: { message: error.message } });
  } finally {
    clearInterval(beating);
  }
}

const definitions = { taskDefinitions: Object.keys(tasks), workflowDefinitions: Object.keys(workflows) };
for (;;) {
  const { resources } = await rpc("awf.task/long-poll", { ...definitions, maxBatchSize: 10, timeout: 10_000 });
  for (const task of resources) run(task).catch((error) => console.error(`${task.id}: ${error.message}`));
}
