"""The models of Kubernetes' client that a pusher needs, built: imported once, by the parent of forked programs."""

from kubernetes import client, config

BUILT = client.V1Job.model_validate({"spec": {"template": {"spec": {"containers": [{"name": "job"}]}}}})
API = client.BatchV1Api, client.CoreV1Api, config
