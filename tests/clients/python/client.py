"""Uses Kubernetes as programs in Python do: with the official client.

`client.py SCENARIO` does one of the scenarios below against the cluster of $KUBECONFIG, in a namespace of its own that it removes; a
scenario that finds something its users would not expect raises, and the program ends with 1. The scenarios whose names begin with `pod_`
need a node and $IMAGE, the name of an image that has busybox.
"""

import inspect
import os
import sys
import time

from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException
from kubernetes.stream import portforward, stream

PATIENCE_S = 60


def config_map(name, **data):
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name, labels={"made-by": "client"}), data=data)


def refused(status, reason, call):
    """The answer of a call that has to fail."""
    try:
        call()
    except ApiException as error:
        assert error.status == status and f'"reason":"{reason}"' in error.body, error
        return error
    raise AssertionError(f"not refused with {status} {reason}")


def create_read_replace_delete(namespace):
    core = client.CoreV1Api()
    made = core.create_namespaced_config_map(namespace, config_map("a", k="v"))
    assert made.metadata.uid and made.metadata.creation_timestamp.tzinfo, made
    made.data["k"] = "w"
    replaced = core.replace_namespaced_config_map("a", namespace, made)
    assert replaced.data == {"k": "w"} and replaced.metadata.resource_version != made.metadata.resource_version
    refused(409, "Conflict", lambda: core.replace_namespaced_config_map("a", namespace, made))
    refused(409, "AlreadyExists", lambda: core.create_namespaced_config_map(namespace, config_map("a")))
    listed = core.list_namespaced_config_map(namespace, label_selector="made-by=client")
    assert [item.metadata.name for item in listed.items] == ["a"]
    core.delete_namespaced_config_map("a", namespace)
    refused(404, "NotFound", lambda: core.read_namespaced_config_map("a", namespace))


def list_in_pages(namespace):
    core = client.CoreV1Api()
    for i in range(25):
        core.create_namespaced_config_map(namespace, config_map(f"c{i:02}"))
    names, token, pages = [], None, 0
    while pages == 0 or token:
        page = core.list_namespaced_config_map(namespace, limit=10, _continue=token)
        names += [item.metadata.name for item in page.items if item.metadata.name != "kube-root-ca.crt"]
        token, pages = page.metadata._continue, pages + 1
    assert names == [f"c{i:02}" for i in range(25)] and pages == 3, (pages, names)


def patch_of_each_type(namespace):
    apps = client.AppsV1Api()
    containers = [{"name": name, "image": "registry.example.test/none:1"} for name in ("a", "b")]
    template = {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": containers}}
    body = {"metadata": {"name": "x"}, "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "x"}}, "template": template}}
    apps.create_namespaced_deployment(namespace, body)

    def patch(body, content_type, **more):
        return apps.patch_namespaced_deployment("x", namespace, body, _content_type=content_type, **more)

    b_only = {"spec": {"template": {"spec": {"containers": [{"name": "b", "image": "registry.example.test/none:2"}]}}}}
    images = lambda d: [(c.name, c.image[-1]) for c in d.spec.template.spec.containers]
    patch(b_only, "application/strategic-merge-patch+json")
    assert sorted(images(apps.read_namespaced_deployment("x", namespace))) == [("a", "1"), ("b", "2")]
    assert images(patch(b_only, "application/merge-patch+json")) == [("b", "2")]
    ops = [{"op": "test", "path": "/spec/replicas", "value": 0}, {"op": "replace", "path": "/metadata/labels", "value": {"k": "v"}}]
    refused(422, "Invalid", lambda: patch([{"op": "test", "path": "/spec/replicas", "value": 9}], "application/json-patch+json"))
    refused(422, "Invalid", lambda: patch(ops[1:], "application/json-patch+json"))
    ops[1]["op"] = "add"
    assert patch(ops, "application/json-patch+json").metadata.labels == {"k": "v"}
    mine = {"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": 2}}
    refused(409, "Conflict", lambda: patch(mine, "application/apply-patch+yaml", field_manager="me"))
    assert patch(mine, "application/apply-patch+yaml", field_manager="me", force=True, dry_run="All").spec.replicas == 2
    assert apps.read_namespaced_deployment("x", namespace).spec.replicas == 0
    owners = {entry.manager: entry.operation for entry in apps.read_namespaced_deployment("x", namespace).metadata.managed_fields}
    assert owners["OpenAPI-Generator"] == "Update" and "me" not in owners, owners
    scale = apps.patch_namespaced_deployment_scale("x", namespace, {"spec": {"replicas": 0}})
    assert scale.kind == "Scale" and scale.spec.replicas == 0


def watch_from_a_list(namespace):
    core = client.CoreV1Api()
    core.create_namespaced_config_map(namespace, config_map("before"))
    start = core.list_namespaced_config_map(namespace).metadata.resource_version
    core.create_namespaced_config_map(namespace, config_map("a"))
    core.patch_namespaced_config_map("a", namespace, {"data": {"k": "v"}})
    core.delete_namespaced_config_map("a", namespace)
    seen = []
    arguments = {"resource_version": start, "label_selector": "made-by=client", "timeout_seconds": PATIENCE_S}
    for event in watch.Watch().stream(core.list_namespaced_config_map, namespace, **arguments):
        seen.append((event["type"], event["object"].metadata.name))
        if event["type"] == "DELETED":
            break
    assert seen == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")], seen


def dynamic_client_and_custom_resources(namespace):
    group = f"{namespace}.example.test"
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer", "default": 3}}}}}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": "boats", "singular": "boat", "kind": "Boat", "listKind": "BoatList"}
    spec = {"group": group, "scope": "Namespaced", "names": names, "versions": [version]}
    kind = "CustomResourceDefinition"
    definition = {"apiVersion": "apiextensions.k8s.io/v1", "kind": kind, "metadata": {"name": f"boats.{group}"}, "spec": spec}
    definitions = client.ApiextensionsV1Api()
    definitions.create_custom_resource_definition(definition)
    try:
        limit = time.monotonic() + PATIENCE_S
        while True:
            status = definitions.read_custom_resource_definition(f"boats.{group}").status
            if any(c.type == "Established" and c.status == "True" for c in (status and status.conditions) or []):
                break
            assert time.monotonic() < limit, status
            time.sleep(0.02)
        boats = dynamic.DynamicClient(client.ApiClient()).resources.get(api_version=f"{group}/v1", kind="Boat")
        made = boats.create(namespace=namespace, body={"apiVersion": f"{group}/v1", "kind": "Boat", "metadata": {"name": "b"}, "spec": {}})
        assert made.spec.size == 3, made
        patched = boats.patch(namespace=namespace, name="b", body={"spec": {"size": 4}}, content_type="application/merge-patch+json")
        assert patched.spec.size == 4 and patched.metadata.generation == 2, patched
        body = {"apiVersion": f"{group}/v1", "kind": "Boat", "metadata": {"name": "b"}, "spec": {"size": 5}}
        applied = boats.server_side_apply(body=body, namespace=namespace, name="b", field_manager="me", force_conflicts=True)
        assert applied.spec.size == 5, applied
        assert [item.metadata.name for item in boats.get(namespace=namespace).items] == ["b"]
        custom = client.CustomObjectsApi()
        refused(422, "Invalid", lambda: custom.create_namespaced_custom_object(group, "v1", namespace, "boats", {**body, "metadata": {"name": "c"}, "spec": {"size": "big"}}))
        boats.delete(namespace=namespace, name="b")
    finally:
        definitions.delete_custom_resource_definition(f"boats.{group}")


def run_pod(namespace, script):
    core = client.CoreV1Api()
    container = {"name": "c", "image": os.environ["IMAGE"], "command": ["sh", "-c", script]}
    core.create_namespaced_pod(namespace, {"metadata": {"name": "p"}, "spec": {"containers": [container]}})
    for event in watch.Watch().stream(core.list_namespaced_pod, namespace, timeout_seconds=PATIENCE_S):
        if event["object"].status.phase == "Running":
            return core
    raise AssertionError("the pod does not run")


def pod_port_forward(namespace):
    core = run_pod(namespace, "while true; do echo hello | nc -l -p 8080; done")
    limit = time.monotonic() + PATIENCE_S
    while True:
        forward = portforward(core.connect_get_namespaced_pod_portforward, "p", namespace, ports="8080")
        socket = forward.socket(8080)
        socket.settimeout(PATIENCE_S)
        # Nothing comes, with an error, until the pod listens.
        if (data := socket.recv(64)) == b"hello\n":
            break
        assert data == b"" and forward.error(8080), (data, forward.error(8080))
        assert time.monotonic() < limit, forward.error(8080)
    socket.close()
    core.delete_namespaced_pod("p", namespace, grace_period_seconds=0)


def pod_logs_and_exec(namespace):
    core = run_pod(namespace, "echo begun; exec sleep 1000")
    limit = time.monotonic() + PATIENCE_S
    while (text := core.read_namespaced_pod_log("p", namespace)) != "begun\n":
        assert time.monotonic() < limit, text
        time.sleep(0.02)
    connect = core.connect_get_namespaced_pod_exec
    printed = stream(connect, "p", namespace, command=["echo", "hello"], stdout=True, stderr=True, stdin=False, tty=False)
    assert printed == "hello\n", printed
    session = stream(connect, "p", namespace, command=["sh"], stdin=True, stdout=True, stderr=True, tty=False, _preload_content=False)
    session.write_stdin("echo out; echo err >&2; exit 7\n")
    session.run_forever(timeout=PATIENCE_S)
    assert (session.read_stdout(), session.read_stderr(), session.returncode) == ("out\n", "err\n", 7), session.returncode
    core.delete_namespaced_pod("p", namespace, grace_period_seconds=0)


HELPERS = ("config_map", "portforward", "refused", "run_pod", "stream")
SCENARIOS = {name: f for name, f in globals().items() if inspect.isfunction(f) and name not in HELPERS}


def main():
    if sys.argv[1:] == ["list"]:
        return print("\n".join(SCENARIOS))
    config.load_kube_config(os.environ["KUBECONFIG"])
    core = client.CoreV1Api()
    namespace = core.create_namespace({"metadata": {"generateName": "client-python-"}}).metadata.name
    try:
        SCENARIOS[sys.argv[1]](namespace)
    finally:
        core.delete_namespace(namespace)


if __name__ == "__main__":
    main()
