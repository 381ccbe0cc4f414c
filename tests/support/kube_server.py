"""A stand-in for Kubernetes' API server, its Job controller and one node, whose pods are processes of this machine.

`python -m tests.support.kube_server '{"port": 5600, "directory": "pods"}'`: in the directory are the pods' logs and a
kubeconfig. It validates what it is sent, and what it holds, by the schemas that Kubernetes 1.37 publishes (strictly: no
unknown fields), as kubernetes-validate ships them. Besides, it checks what those do not say and a pusher relies on:
names, values of labels, selectors, pages. It cannot show admission, quotas, RBAC's rules, scheduling, images, and the
timing of a real cluster.
"""

from __future__ import annotations

import functools
import json
import re
import sys
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kubernetes_validate
from aiohttp import web
from jsonschema import Draft202012Validator
from kubernetes_validate import utils
from referencing import Registry, Resource

from tests.support.standin import Container, StandIn, serve

VERSION = "1.37"
NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\Z")
VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?\Z")
SECRETS = {"database": {"DATABASE_PASSWORD": "hunter2"}}
NODE = "node-1"
utils.schema_contents = functools.cache(utils.schema_contents)  # each is read from disk once
Object = dict[str, Any]


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def valid(thing: Object) -> None:
    kubernetes_validate.validate(thing, VERSION, strict=True)


@functools.cache
def _options() -> Any:
    folder = f"kubernetes-json-schema/v{VERSION}.0-local-strict"
    schema = utils.schema_contents(f"{folder}/deleteoptions-meta-v1.json", VERSION)
    registry: Registry[Any] = Registry()
    for contents in (schema, utils.schema_contents(f"{folder}/_definitions.json", VERSION)):
        registry = Resource.from_contents(contents) @ registry
    return Draft202012Validator(schema, registry=registry)


def valid_options(options: Object) -> None:
    _options().validate(options)


def expanded(text: str, known: Mapping[str, str]) -> str:
    """`$(NAME)` is a variable that is known, `$$` is `$`, anything else is itself."""

    def one(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else known.get(found[1], found[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", one, text)


def selects(selector: str) -> Callable[[Mapping[str, str]], bool]:
    """`a=b,c in (d,e)`."""
    tests: list[tuple[str, set[str]]] = []
    for part in re.findall(r"[^,(]+(?:\([^)]*\))?", selector):
        if found := re.fullmatch(r"\s*(\S+) in \(([^)]*)\)", part):
            tests.append((found[1], set(found[2].split(","))))
        else:
            name, equals, value = part.partition("=")
            assert equals, f"a selector that the stand-in does not know: {part}"
            tests.append((name, {value}))
    return lambda labels: all(labels.get(name) in values for name, values in tests)


def kubeconfig(port: int, token: str) -> Object:
    """The configuration of its clients."""
    return {
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "pusher", "user": {"token": token or "none"}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "pusher"}}],
    }  # fmt: skip


class Kubernetes(StandIn):
    def __init__(self, port: int, directory: str, token: str = "") -> None:
        super().__init__(f"Bearer {token}" if token else "")
        self.directory = Path(directory)
        self.directory.mkdir(exist_ok=True)
        (self.directory / "kubeconfig").write_text(json.dumps(kubeconfig(port, token)))
        self.jobs: dict[str, Object] = {}  # by namespace/name
        self.pods: dict[str, Object] = {}
        self.pages: dict[str, tuple[list[Object], str]] = {}
        jobs, pods = "/apis/batch/v1/namespaces/{namespace}/jobs", "/api/v1/namespaces/{namespace}/pods"
        routes = self.app.router
        routes.add_get("/version", self.version)
        routes.add_post(jobs, self.create)
        routes.add_get(jobs, self.list_jobs)
        routes.add_get(jobs + "/{name}", self.read)
        routes.add_delete(jobs + "/{name}", self.delete)
        routes.add_get(pods, self.list_pods)
        routes.add_get(pods + "/{name}/log", self.log)

    def error(self, status: int, reason: str, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
        body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": status,
                "reason": reason, "message": message}  # fmt: skip
        return web.json_response(body, status=status, headers=headers)

    async def version(self, request: web.Request) -> web.Response:
        major, minor = VERSION.split(".")
        return web.json_response({"major": major, "minor": minor, "gitVersion": f"v{VERSION}.0"})

    # -- the API -----------------------------------------------------------------------------------------------------

    async def create(self, request: web.Request) -> web.Response:
        namespace, job = request.match_info["namespace"], await request.json()
        try:
            valid(job)
        except kubernetes_validate.ValidationError as error:
            where = ".".join(map(str, error.absolute_path))
            return self.error(422, "Invalid", f"Job is invalid: {where}: {error.message}")
        metadata, template = job["metadata"], job["spec"]["template"]
        if wrong := self._wrong(metadata, template):
            return self.error(422, "Invalid", f'Job.batch "{metadata["name"]}" is invalid: {wrong}')
        key = f"{namespace}/{metadata['name']}"
        if key in self.jobs:
            return self.error(409, "AlreadyExists", f'jobs.batch "{metadata["name"]}" already exists')
        metadata |= {"namespace": namespace, "uid": str(uuid.uuid4()), "creationTimestamp": now()}
        template["metadata"].setdefault("labels", {})["batch.kubernetes.io/job-name"] = metadata["name"]
        job["status"] = {}
        self.jobs[key] = job
        self.born(metadata["name"], namespace)
        self.spawn(self.control(key))
        return web.json_response(job, status=201)

    def _wrong(self, metadata: Object, template: Object) -> str:
        if not NAME.match(metadata["name"]):
            return f"metadata.name: {metadata['name']!r}"
        for labels in (metadata.get("labels", {}), template["metadata"].get("labels", {})):
            for name, value in labels.items():
                if not VALUE.match(value) or len(value) > 63:
                    return f"labels.{name}: {value!r}"
        return "" if template["spec"]["restartPolicy"] in ("Never", "OnFailure") else "restartPolicy"

    async def read(self, request: web.Request) -> web.Response:
        found = self.jobs.get("{namespace}/{name}".format(**request.match_info))
        if found is None:
            return self.error(404, "NotFound", f'jobs.batch "{request.match_info["name"]}" not found')
        return web.json_response(found)

    async def list_jobs(self, request: web.Request) -> web.Response:
        return self._list(request, self.jobs, {"kind": "JobList", "apiVersion": "batch/v1"})

    async def list_pods(self, request: web.Request) -> web.Response:
        return self._list(request, self.pods, {"kind": "PodList", "apiVersion": "v1"})

    def _list(self, request: web.Request, things: Mapping[str, Object], head: Object) -> web.Response:
        wanted, token = selects(request.query.get("labelSelector", "")), request.query.get("continue")
        if token is None:
            prefix = f"{request.match_info['namespace']}/"
            found = [thing for key, thing in sorted(things.items())
                     if key.startswith(prefix) and wanted(thing["metadata"].get("labels", {}))]  # fmt: skip
        else:
            found, selector = self.pages[token]
            if selector != request.query.get("labelSelector"):
                return self.error(400, "BadRequest", "the provided continue parameter is for another list")
        limit = int(request.query.get("limit", len(found) or 1))
        page, rest = found[:limit], found[limit:]
        metadata: Object = {"resourceVersion": "1"}
        if rest:
            metadata["continue"] = uuid.uuid4().hex
            self.pages[metadata["continue"]] = (rest, request.query.get("labelSelector", ""))
        return web.json_response({**head, "metadata": metadata, "items": page})

    async def delete(self, request: web.Request) -> web.Response:
        key = "{namespace}/{name}".format(**request.match_info)
        options = json.loads(await request.text() or "{}")
        valid_options(options)
        job = self.jobs.get(key)
        if job is None:
            return self.error(404, "NotFound", f'jobs.batch "{request.match_info["name"]}" not found')
        foreground = options.get("propagationPolicy") == "Foreground"
        if "deletionTimestamp" not in job["metadata"]:
            job["metadata"] |= {"deletionTimestamp": now(), "finalizers": ["foregroundDeletion"]}
            self.spawn(self.remove(key, job))
        if not foreground:
            del self.jobs[key]
        return web.json_response({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})

    async def log(self, request: web.Request) -> web.Response:
        container = self.containers.get("{namespace}/{name}".format(**request.match_info))
        if container is None:
            return self.error(404, "NotFound", f'pods "{request.match_info["name"]}" not found')
        text = container.tail(int(request.query["tailLines"])).encode()[: int(request.query["limitBytes"])]
        return web.Response(body=text, content_type="text/plain")

    # -- the Job controller, the scheduler and the kubelet -----------------------------------------------------------

    async def control(self, key: str) -> None:
        """From a Job to its pod, its process, and back."""
        job = self.jobs[key]
        namespace, name = key.split("/")
        template = job["spec"]["template"]
        pod: Object = {
            "apiVersion": "v1", "kind": "Pod", "spec": dict(template["spec"]),
            "metadata": {"name": f"{name}-{uuid.uuid4().hex[:5]}", "namespace": namespace,
                         "labels": template["metadata"]["labels"], "creationTimestamp": now()},
            "status": {"phase": "Pending"},
        }  # fmt: skip
        home = f"{namespace}/{pod['metadata']['name']}"
        self.pods[home] = pod
        job["status"] = {"active": 1, "ready": 0, "startTime": now()}
        if self.held:
            self._condition(pod, "PodScheduled", "False", "Unschedulable", "0/1 nodes are available")
        self._checked(job, pod)
        await self.until(lambda: not self.held or home not in self.pods)
        if home not in self.pods:
            return
        pod["status"]["startTime"] = now()
        pod["spec"]["nodeName"] = NODE
        self._condition(pod, "PodScheduled", "True")
        container = template["spec"]["containers"][0]
        if why := self._cannot_start(container):
            self._container(pod, {"waiting": why})
            self._checked(job, pod)
            return
        await self._start(container, home)
        self._container(pod, {"running": {"startedAt": now()}})
        pod["status"]["phase"] = "Running"
        job["status"]["ready"] = 1
        self.became(name, "RUNNING")
        self._checked(job, pod)
        code = await self.containers[home].wait()
        self._ended(key, home, code)

    def _cannot_start(self, container: Object) -> Object | None:
        if container["image"].startswith("missing/"):
            return {"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{container["image"]}"'}
        for each in container.get("envFrom", ()):
            if each["secretRef"]["name"] not in SECRETS:
                return {"reason": "CreateContainerConfigError",
                        "message": f'secret "{each["secretRef"]["name"]}" not found'}  # fmt: skip
        return None

    async def _start(self, container: Object, home: str) -> None:
        variables: dict[str, str] = {}
        for each in container.get("envFrom", ()):
            variables |= SECRETS[each["secretRef"]["name"]]
        for each in container.get("env", ()):
            variables[each["name"]] = expanded(each.get("value", ""), variables)
        words = [expanded(word, variables) for word in (*container.get("command", ()), *container.get("args", ()))]
        log = self.directory / f"{home.replace('/', '-')}.log"
        self.containers[home] = await Container.start(words, variables, log)

    def _ended(self, key: str, home: str, code: int) -> None:
        """Reports of the kubelet, and then of the controller. A node that does not answer reports nothing."""
        pod, job = self.pods.get(home), self.jobs.get(key)
        if pod is None or pod["metadata"].get("annotations", {}).get("stand-in/vanished"):
            return
        if pod["status"]["phase"] == "Running":
            pod["status"]["phase"] = "Failed" if code else "Succeeded"
        reason = "Error" if code else "Completed"
        self._container(pod, {"terminated": {"exitCode": code, "reason": reason, "finishedAt": now()}})
        self._judge(job, pod)

    def _judge(self, job: Object | None, pod: Object) -> None:
        if job is None:
            return
        failed = pod["status"]["phase"] == "Failed"
        self.became(job["metadata"]["name"], "FAILED" if failed else "SUCCEEDED")
        if "deletionTimestamp" in job["metadata"]:
            return  # the controller leaves it alone
        job["status"] = {"startTime": job["status"]["startTime"], "failed" if failed else "succeeded": 1}
        if failed:
            self._condition(
                job, "Failed", "True", "BackoffLimitExceeded", "Job has reached the specified backoff limit"
            )
        else:
            self._condition(job, "Complete", "True", "CompletionsReached", "Reached expected number of succeeded pods")
        self._checked(job, pod)

    async def remove(self, key: str, job: Object) -> None:
        """Ends the pods of a Job that is being deleted, and then lets it go."""
        name = job["metadata"]["name"]
        mine = [home for home, pod in self.pods.items()
                if pod["metadata"]["labels"]["batch.kubernetes.io/job-name"] == name]  # fmt: skip
        for home in mine:
            pod = self.pods[home]
            pod["metadata"]["deletionTimestamp"] = now()
            if home in self.containers:
                await self.containers[home].end(pod["spec"].get("terminationGracePeriodSeconds", 30))
            self.pods.pop(home, None)
        self.became(name, "FAILED")
        if self.jobs.get(key) is job:
            del self.jobs[key]
        await self.changed()

    def _container(self, pod: Object, state: Object) -> None:
        image = pod["spec"]["containers"][0]["image"]
        pod["status"]["containerStatuses"] = [
            {"name": "job", "image": image, "imageID": "", "ready": "running" in state, "restartCount": 0,
             "state": state}
        ]  # fmt: skip

    def _condition(self, thing: Object, type: str, status: str, reason: str = "", message: str = "") -> None:
        kept = [each for each in thing["status"].get("conditions", ()) if each["type"] != type]
        said = {"reason": reason, "message": message} if reason else {}
        thing["status"]["conditions"] = [*kept, {"type": type, "status": status, "lastTransitionTime": now(), **said}]

    def _checked(self, *things: Object) -> None:
        for thing in things:
            valid(thing)

    # -- what befalls a pod ------------------------------------------------------------------------------------------

    def _pod_of(self, job: str) -> tuple[str, str, Object]:
        (home,) = [home for home, pod in self.pods.items()
                   if pod["metadata"]["labels"]["batch.kubernetes.io/job-name"] == job]  # fmt: skip
        return f"{home.split('/')[0]}/{job}", home, self.pods[home]

    async def do_evict(self, job: str) -> None:
        """The kubelet ends it, because its node lacks memory."""
        _, home, pod = self._pod_of(job)
        message = "The node was low on resource: memory."
        pod["status"] |= {"phase": "Failed", "reason": "Evicted", "message": message}
        self._condition(pod, "DisruptionTarget", "True", "TerminationByKubelet", message)
        await self.containers[home].end(0.1)

    async def do_vanish(self, job: str) -> None:
        """Its node does not answer any more: the pod is to be deleted, and goes on running where nobody sees it."""
        key, _, pod = self._pod_of(job)
        pod["metadata"] |= {"deletionTimestamp": now(), "annotations": {"stand-in/vanished": "yes"}}
        self._condition(pod, "Ready", "False")
        self._condition(pod, "DisruptionTarget", "True", "DeletionByTaintManager",
                        "Taint manager: deleting due to NoExecute taint")  # fmt: skip
        self._checked(pod)
        if self.jobs[key]["spec"].get("podReplacementPolicy") != "Failed":
            pod["status"]["phase"] = "Failed"  # as the controller counts it, whatever it still does
            self._judge(self.jobs[key], pod)

    async def do_remove_node(self, job: str) -> None:
        """The node is taken out of the cluster: what was on it is no more."""
        key, home, pod = self._pod_of(job)
        await self.containers[home].end(0.1)
        pod["status"]["phase"] = "Failed"
        self._condition(pod, "DisruptionTarget", "True", "DeletionByPodGC", "PodGC: node no longer exists")
        self._judge(self.jobs.get(key), pod)

    async def do_objects(self) -> dict[str, list[str]]:
        """The present objects."""
        return {"jobs": sorted(self.jobs), "pods": sorted(self.pods)}


if __name__ == "__main__":
    serve(Kubernetes, sys.argv[1])
