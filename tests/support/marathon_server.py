"""A stand-in for Marathon and a Mesos agent, whose tasks are processes of this machine.

`python -m tests.support.marathon_server '{"port": 5601, "directory": "sandboxes"}'`. It follows the documented REST API
of Marathon 1.5 and later, as far as a pusher uses it: apps with label selectors and `embed`, deployments, tasks, kill,
and the agent's /files/read. As Marathon does, it starts what has ended again after the launch delay (at once, when an
operator has killed it), and keeps an app's last failure, but nothing of a task that finished or was killed. It cannot
show offers, the fetching of images, leaders that change, and what an agent does in an outage.
"""

from __future__ import annotations

import asyncio
import re
import sys
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web
from jsonschema import Draft202012Validator

from tests.support.standin import Container, StandIn, serve

Object = dict[str, Any]
FRAMEWORK, AGENT = "7f1a-0001", "7f1a-S1"
ID = re.compile(r"(/[a-z0-9]([-a-z0-9]*[a-z0-9])?)+\Z")  # Marathon's own rule of path segments
NUMBER, TEXT, TEXTS = (
    {"type": "number", "minimum": 0},
    {"type": "string"},
    {"type": "array", "items": {"type": "string"}},
)
FIELDS: Object = {  # of AppDefinition in Marathon's docs/docs/rest-api: those that a pusher may send
    "id": TEXT, "cmd": {"type": "string", "minLength": 1}, "args": TEXTS, "user": TEXT,
    "cpus": {"type": "number", "minimum": 0.001}, "mem": NUMBER, "disk": NUMBER, "gpus": {"type": "integer"},
    "instances": {"type": "integer", "minimum": 0}, "backoffFactor": {"type": "number", "minimum": 1},
    "backoffSeconds": {"type": "integer", "minimum": 0}, "maxLaunchDelaySeconds": {"type": "integer", "minimum": 0},
    "taskKillGracePeriodSeconds": {"type": "integer", "minimum": 0},
    "labels": {"type": "object", "additionalProperties": TEXT},
    "env": {"type": "object", "additionalProperties": {"anyOf": [TEXT, {
        "type": "object", "properties": {"secret": TEXT}, "required": ["secret"], "additionalProperties": False}]}},
    "secrets": {"type": "object"}, "constraints": {"type": "array"}, "fetch": {"type": "array"},
    "acceptedResourceRoles": TEXTS, "networks": {"type": "array"},
    "portDefinitions": {"type": "array"}, "upgradeStrategy": {"type": "object"},
    "unreachableStrategy": {"anyOf": [{"const": "disabled"}, {"type": "object"}]},
    "container": {
        "type": "object", "required": ["type"], "additionalProperties": False,
        "properties": {"type": {"enum": ["MESOS", "DOCKER"]}, "volumes": {"type": "array"}, "docker": {
            "type": "object", "required": ["image"], "additionalProperties": False,
            "properties": {"image": TEXT, "forcePullImage": {"type": "boolean"}, "privileged": {"type": "boolean"},
                           "parameters": {"type": "array"}}}},
    },
}  # fmt: skip
APP = Draft202012Validator(
    {"type": "object", "properties": FIELDS, "additionalProperties": False, "required": ["id"],
     "oneOf": [{"required": ["cmd"]}, {"required": ["args"]}]}
)  # fmt: skip
CHANGE = Draft202012Validator({"type": "object", "properties": FIELDS, "additionalProperties": False})


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def selected(selector: str, labels: Mapping[str, str]) -> bool:
    """`a==b, c in (d,e)`."""
    for part in re.findall(r"[^,(]+(?:\([^)]*\))?", selector):
        if found := re.fullmatch(r"\s*(\S+) in \(([^)]*)\)\s*", part):
            if labels.get(found[1]) not in [each.strip() for each in found[2].split(",")]:
                return False
        else:
            name, equals, value = part.strip().partition("==")
            assert equals, f"a selector that the stand-in does not know: {part}"
            if labels.get(name) != value:
                return False
    return True


class Marathon(StandIn):
    def __init__(self, port: int, directory: str, authorization: str = "") -> None:
        super().__init__(authorization)
        self.open = ("/files/read",)  # the agent's
        self.directory = Path(directory)
        self.directory.mkdir(exist_ok=True)
        self.apps: dict[str, Object] = {}
        self.running: dict[str, Object] = {}  # tasks by id
        self.failures: dict[str, Object] = {}  # the last of each app
        self.deployments: dict[str, Object] = {}
        self.silent: set[str] = set()  # apps whose agent does not answer
        routes = self.app.router
        routes.add_post("/v2/apps", self.create)
        routes.add_get("/v2/apps", self.list_apps)
        routes.add_get("/v2/apps/{id:.+}/tasks", self.tasks_of)
        routes.add_delete("/v2/apps/{id:.+}/tasks", self.kill)
        routes.add_get("/v2/apps/{id:.+}", self.read)
        routes.add_put("/v2/apps/{id:.+}", self.change)
        routes.add_delete("/v2/apps/{id:.+}", self.delete)
        routes.add_get("/v2/deployments", self.list_deployments)
        routes.add_get("/v2/info", self.info)
        routes.add_get("/files/read", self.files)

    def error(self, status: int, reason: str, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
        return web.json_response({"message": message or reason}, status=status, headers=headers)

    # -- the API -----------------------------------------------------------------------------------------------------

    async def create(self, request: web.Request) -> web.Response:
        app = await request.json()
        if errors := list(APP.iter_errors(app)):
            return self._invalid(errors)
        if not ID.match(app["id"]) or app.get("maxLaunchDelaySeconds", 3600) < app.get("backoffSeconds", 1):
            return self.error(422, "", "Object is not valid")
        if app["id"] in self.apps:
            return self.error(409, "", f"An app with id [{app['id']}] already exists.")
        app = {"instances": 1, "cpus": 1, "mem": 128, "backoffSeconds": 1, "version": now(), **app}
        self.apps[app["id"]] = app
        self.born(app["id"], app["id"].split("/")[1])
        self.spawn(self._launch(app, self._deploy(app, "StartApplication")))
        return web.json_response(self._shown(app, ("app.deployments", "app.counts")), status=201)

    def _invalid(self, errors: list[Any]) -> web.Response:
        details = [{"path": "/" + "/".join(map(str, error.absolute_path)), "errors": [error.message]}
                   for error in errors]  # fmt: skip
        return web.json_response({"message": "Invalid JSON", "details": details}, status=400)

    async def list_apps(self, request: web.Request) -> web.Response:
        embeds = [each.replace("apps.", "app.", 1) for each in request.query.getall("embed", [])]
        apps = [self._shown(app, embeds) for app in self.apps.values()
                if selected(request.query.get("label", ""), app.get("labels", {}))]  # fmt: skip
        return web.json_response({"apps": apps})

    async def read(self, request: web.Request) -> web.Response:
        app = self.apps.get(self._id(request))
        if app is None:
            return self._no(request)
        return web.json_response({"app": self._shown(app, request.query.getall("embed", []))})

    def _id(self, request: web.Request) -> str:
        return "/" + request.match_info["id"].lstrip("/")

    def _no(self, request: web.Request) -> web.Response:
        return self.error(404, "", f"App '{self._id(request)}' does not exist")

    def _shown(self, app: Object, embeds: Any) -> Object:
        tasks = [task for task in self.running.values() if task["appId"] == app["id"]]
        shown = dict(app)
        if "app.counts" in embeds:
            states = [task["state"] for task in tasks]
            shown |= {"tasksRunning": states.count("TASK_RUNNING"), "tasksStaged": states.count("TASK_STAGING"),
                      "tasksHealthy": 0, "tasksUnhealthy": 0}  # fmt: skip
        if "app.tasks" in embeds:
            shown["tasks"] = tasks
        if "app.deployments" in embeds:
            shown["deployments"] = [
                {"id": id} for id, each in self.deployments.items() if app["id"] in each["affectedApps"]
            ]
        if "app.lastTaskFailure" in embeds and app["id"] in self.failures:
            shown["lastTaskFailure"] = self.failures[app["id"]]
        return shown

    async def change(self, request: web.Request) -> web.Response:
        change = await request.json()
        if errors := list(CHANGE.iter_errors(change)):
            return self._invalid(errors)
        app = self.apps.get(self._id(request))
        if app is None:
            return self._no(request)
        if (locked := self._locked(app, request)) is not None:
            return locked
        assert list(change) == ["instances"], "the stand-in scales, and no more"
        app |= change | {"version": now()}
        deployment = self._deploy(app, "ScaleApplication")
        self.spawn(self._scale(app, deployment))
        return web.json_response({"version": app["version"], "deploymentId": deployment})

    async def delete(self, request: web.Request) -> web.Response:
        app = self.apps.get(self._id(request))
        if app is None:
            return self._no(request)
        if (locked := self._locked(app, request)) is not None:
            return locked
        del self.apps[app["id"]]  # it is gone at once, also while its tasks are being killed
        self.failures.pop(app["id"], None)
        deployment = self._deploy(app, "StopApplication")
        app["instances"] = 0
        self.spawn(self._scale(app, deployment))
        return web.json_response({"version": now(), "deploymentId": deployment})

    def _locked(self, app: Object, request: web.Request) -> web.Response | None:
        locks = [{"id": id} for id, each in self.deployments.items() if app["id"] in each["affectedApps"]]
        if not locks or request.query.get("force") == "true":
            return None
        message = "App is locked by one or more deployments. Override with the option '?force=true'."
        return web.json_response({"message": message, "deployments": locks}, status=409)

    async def tasks_of(self, request: web.Request) -> web.Response:
        return web.json_response({"tasks": [t for t in self.running.values() if t["appId"] == self._id(request)]})

    async def kill(self, request: web.Request) -> web.Response:
        """By an operator: what he kills is started again at once, unless he scales."""
        tasks = [task for task in self.running.values() if task["appId"] == self._id(request)]
        for task in tasks:
            self.spawn(self._kill(task, 1.0))
        return web.json_response({"tasks": tasks})

    async def list_deployments(self, request: web.Request) -> web.Response:
        return web.json_response(list(self.deployments.values()))

    async def info(self, request: web.Request) -> web.Response:
        return web.json_response({"name": "marathon", "version": "1.11.24", "frameworkId": FRAMEWORK})

    async def files(self, request: web.Request) -> web.Response:
        """The agent's: a part of a file of a sandbox; offset -1 asks for its size."""
        found = re.fullmatch(rf"/frameworks/{FRAMEWORK}/executors/([^/]+)/runs/latest/(stdout|stderr)",
                             request.query["path"])  # fmt: skip
        container = self.containers.get(found[1]) if found else None
        if container is None or found is None:
            return web.Response(status=404, text="Failed to find file.\n")
        text = container.log.read_bytes().decode(errors="replace") if found[2] == "stdout" else ""
        offset = int(request.query["offset"])
        if offset == -1:
            return web.json_response({"data": "", "offset": len(text)})
        return web.json_response({"data": text[offset : offset + int(request.query["length"])], "offset": offset})

    # -- the scheduler and the agent ---------------------------------------------------------------------------------

    def _deploy(self, app: Object, action: str) -> str:
        id = str(uuid.uuid4())
        self.deployments[id] = {
            "id": id, "version": app["version"], "affectedApps": [app["id"]], "affectedPods": [], "currentStep": 1,
            "totalSteps": 1, "steps": [{"actions": [{"action": action, "app": app["id"]}]}],
            "currentActions": [{"action": action, "app": app["id"], "readinessCheckResults": []}],
        }  # fmt: skip
        return id

    async def _launch(self, app: Object, deployment: str) -> None:
        """Runs a task as long as one is wanted, again and again."""
        while True:
            await self.until(lambda: not self.held or not self._wanted(app))
            if not self._wanted(app):
                self.deployments.pop(deployment, None)
                return
            state = await self._run(app, deployment)
            if state in ("TASK_FAILED", "TASK_FINISHED"):  # a task that was killed is replaced at once
                try:
                    await asyncio.wait_for(self.until(lambda: not self._wanted(app)), app["backoffSeconds"])
                except TimeoutError:
                    pass

    def _wanted(self, app: Object) -> bool:
        return self.apps.get(app["id"]) is app and app["instances"] > 0

    async def _run(self, app: Object, deployment: str) -> str:
        id = f"{app['id'].strip('/').replace('/', '_')}.instance-{uuid.uuid4()}._app.1"
        task = {"id": id, "appId": app["id"], "host": "127.0.0.1", "slaveId": AGENT, "ports": [], "ipAddresses": [],
                "state": "TASK_STAGING", "stagedAt": now(), "version": app["version"]}  # fmt: skip
        self.running[id] = task
        image = app.get("container", {}).get("docker", {}).get("image", "")
        if image.startswith("missing/"):
            return self._over(app, task, "TASK_FAILED", f"Failed to launch container: Failed to fetch image '{image}'")
        words = ["/bin/sh", "-c", app["cmd"]] if "cmd" in app else app["args"]
        variables = {name: value for name, value in app.get("env", {}).items() if isinstance(value, str)}
        log = self.directory / f"{id}.log"
        container = self.containers[id] = await Container.start(words, variables | {"MESOS_TASK_ID": id}, log)
        task |= {"state": "TASK_RUNNING", "startedAt": now()}
        self.became(app["id"], "RUNNING")
        self.deployments.pop(deployment, None)
        code = await container.wait()
        await self.until(lambda: app["id"] not in self.silent)
        if task.get("killed"):
            return self._over(app, task, "TASK_KILLED", "")
        if code:
            return self._over(app, task, "TASK_FAILED", f"Command exited with status {code}")
        return self._over(app, task, "TASK_FINISHED", "")

    def _over(self, app: Object, task: Object, state: str, message: str) -> str:
        self.running.pop(task["id"], None)
        if state == "TASK_FAILED" and app["id"] in self.apps:
            self.failures[app["id"]] = {
                "appId": app["id"], "host": task["host"], "message": message, "slaveId": AGENT, "state": state,
                "taskId": task["id"], "timestamp": now(), "version": app["version"],
            }  # fmt: skip
        code = {"Command exited with status 113": "SUCCEEDED"}.get(message, "FAILED")
        self.became(app["id"], code)
        self.spawn(self.changed())
        return state

    async def _scale(self, app: Object, deployment: str) -> None:
        await self.changed()
        if app["instances"] == 0:
            for task in [each for each in self.running.values() if each["appId"] == app["id"]]:
                await self._kill(task, app.get("taskKillGracePeriodSeconds", 3))
            self.became(app["id"], "FAILED")
        self.deployments.pop(deployment, None)

    async def _kill(self, task: Object, grace: float) -> None:
        task["killed"] = True
        if task["id"] in self.containers:
            await self.containers[task["id"]].end(grace)
        await self.until(lambda: task["id"] not in self.running)

    async def do_vanish(self, job: str) -> None:
        """The agent of its task does not answer; unless the app says so, the task is replaced."""
        self.silent.add(job)
        app = self.apps[job]
        if app.get("unreachableStrategy") != "disabled":
            self.spawn(self._launch(app, self._deploy(app, "ScaleApplication")))
        for task in self.running.values():
            if task["appId"] == job:
                task["state"] = "TASK_UNREACHABLE"

    async def do_lose(self, job: str) -> None:
        """The agent is given up: its task is gone."""
        (task,) = [each for each in self.running.values() if each["appId"] == job]
        app = self.apps[job]
        await self.containers[task["id"]].end(0.1)
        self.failures[job] = {"appId": job, "host": task["host"], "message": "Agent removed: health check timed out",
                              "slaveId": AGENT, "state": "TASK_LOST", "taskId": task["id"], "timestamp": now(),
                              "version": app["version"]}  # fmt: skip
        self.running.pop(task["id"], None)
        self.became(job, "FAILED")

    async def do_objects(self) -> dict[str, list[str]]:
        """The present apps."""
        return {"apps": sorted(self.apps), "tasks": sorted(task["appId"] for task in self.running.values())}


if __name__ == "__main__":
    serve(Marathon, sys.argv[1])
