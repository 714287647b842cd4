"""Does to a cluster, in the namespace given, what programs of the Python client do. The kubeconfig is $KUBECONFIG's."""

import datetime
import sys
import threading
import time

from kubernetes import client, config, dynamic, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import stream

PATIENCE = 90
GRACE = client.V1DeleteOptions(grace_period_seconds=0)


def step(name):
    print(f"ok: {name}", flush=True)


def until(what, reached):
    end = time.monotonic() + PATIENCE
    while not reached():
        if time.monotonic() > end:
            raise AssertionError(f"never came: {what}")
        time.sleep(0.1)


def refused(code, call):
    try:
        call()
    except ApiException as error:
        assert error.status == code, f"{error.status} instead of {code}: {error.body}"
        return error
    raise AssertionError(f"not refused with {code}")


def gone(read):
    try:
        read()
        return False
    except ApiException as error:
        assert error.status == 404, error
        return True


def shell(name, script, labels):
    container = client.V1Container(name="main", image="busybox", command=["sh", "-c", script])
    return client.V1Pod(
        metadata=client.V1ObjectMeta(name=name, labels=labels),
        spec=client.V1PodSpec(containers=[container], termination_grace_period_seconds=1),
    )


def config_maps(core, namespace):
    made = core.create_namespaced_config_map(
        namespace, client.V1ConfigMap(metadata=client.V1ObjectMeta(name="first", labels={"of": "python"}), data={"a": "1"})
    )
    assert made.metadata.creation_timestamp <= datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=1)
    first = made.metadata.resource_version
    refused(409, lambda: core.create_namespaced_config_map(namespace, made_again(made)))
    listed = core.list_namespaced_config_map(namespace, label_selector="of=python")
    assert [m.metadata.name for m in listed.items] == ["first"], listed
    patched = core.patch_namespaced_config_map("first", namespace, {"data": {"b": "2"}})
    assert patched.data == {"a": "1", "b": "2"}, patched.data
    patched = core.patch_namespaced_config_map("first", namespace, [{"op": "remove", "path": "/data/a"}])
    assert patched.data == {"b": "2"}, patched.data
    stale = core.read_namespaced_config_map("first", namespace)
    stale.metadata.resource_version = first
    refused(409, lambda: core.replace_namespaced_config_map("first", namespace, stale))
    refused(422, lambda: core.create_namespaced_config_map(namespace, {"metadata": {"name": "Not a name"}}))
    # Preconditions in the options of a deletion.
    wrong = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid="another"))
    refused(409, lambda: core.delete_namespaced_config_map("first", namespace, body=wrong))
    for n in range(7):
        core.create_namespaced_config_map(namespace, {"metadata": {"name": f"page-{n}", "labels": {"of": "pages"}}})
    names, more = [], None
    while True:
        page = core.list_namespaced_config_map(namespace, label_selector="of=pages", limit=3, _continue=more)
        names += [m.metadata.name for m in page.items]
        more = page.metadata._continue
        if not more:
            break
    assert names == [f"page-{n}" for n in range(7)], names
    core.delete_collection_namespaced_config_map(
        namespace, label_selector="of=pages", body=client.V1DeleteOptions(propagation_policy="Background")
    )
    assert core.list_namespaced_config_map(namespace, label_selector="of=pages").items == []
    right = client.V1DeleteOptions(
        api_version="v1", kind="DeleteOptions", preconditions=client.V1Preconditions(uid=made.metadata.uid)
    )
    core.delete_namespaced_config_map("first", namespace, body=right)
    assert gone(lambda: core.read_namespaced_config_map("first", namespace))
    step("ConfigMaps: create, list in pages, patch, replace, delete one and many")


def made_again(made):
    made.metadata.resource_version = None
    return made


def watching(core, namespace):
    start = core.list_namespaced_secret(namespace).metadata.resource_version
    seen = []

    def follow():
        events = watch.Watch().stream(
            core.list_namespaced_secret, namespace, resource_version=start, label_selector="of=watch", timeout_seconds=60
        )
        for event in events:
            seen.append((event["type"], event["object"].metadata.name))
            if event["type"] == "DELETED":
                return

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    core.create_namespaced_secret(
        namespace, client.V1Secret(metadata=client.V1ObjectMeta(name="seen", labels={"of": "watch"}), string_data={"k": "v"})
    )
    core.patch_namespaced_secret("seen", namespace, {"metadata": {"annotations": {"x": "y"}}})
    core.delete_namespaced_secret("seen", namespace)
    follower.join(PATIENCE)
    assert seen == [("ADDED", "seen"), ("MODIFIED", "seen"), ("DELETED", "seen")], seen
    step("a watch tells of all that happens")


def applying(api, namespace):
    maps = dynamic.DynamicClient(api).resources.get(api_version="v1", kind="ConfigMap")

    def body(data):
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": data}

    def apply(data, manager, **more):
        return maps.server_side_apply(
            namespace=namespace, name="applied", body=body(data), field_manager=manager, **more
        )

    apply({"mine": "1"}, "one")
    apply({"yours": "1"}, "two")
    refused(409, lambda: apply({"mine": "2"}, "two"))
    taken = apply({"mine": "2"}, "two", force_conflicts=True)
    assert taken.data.to_dict() == {"mine": "2"}, taken.data
    managers = {entry.manager for entry in taken.metadata.managedFields}
    assert "two" in managers, managers
    maps.delete(namespace=namespace, name="applied")
    step("server-side apply: conflict and force")


def pods(core, namespace):
    core.create_namespaced_pod(namespace, shell("worker", "echo ready; exec sleep 3600", {"app": "worker"}))
    until(
        "the worker runs",
        lambda: core.read_namespaced_pod("worker", namespace).status.phase == "Running",
    )
    until("its log", lambda: core.read_namespaced_pod_log("worker", namespace) == "ready\n")
    command = ["sh", "-c", "echo out; echo err >&2; cat"]
    session = stream(
        core.connect_get_namespaced_pod_exec, "worker", namespace, command=command,
        stdin=True, stdout=True, stderr=True, tty=False, _preload_content=False,
    )
    session.write_stdin("typed\n")
    out, err = "", ""
    end = time.monotonic() + PATIENCE
    while not (out == "out\ntyped\n" and err == "err\n"):
        assert time.monotonic() < end, (out, err)
        session.update(timeout=1)
        out += session.read_stdout() if session.peek_stdout() else ""
        err += session.read_stderr() if session.peek_stderr() else ""
    session.close()
    failing = stream(
        core.connect_get_namespaced_pod_exec, "worker", namespace, command=["sh", "-c", "exit 3"],
        stdout=True, stderr=True, stdin=False, tty=False, _preload_content=False,
    )
    failing.run_forever(timeout=PATIENCE)
    assert failing.returncode == 3, failing.returncode
    step("a pod: log, exec with all streams, its exit code")
    eviction = client.V1Eviction(
        metadata=client.V1ObjectMeta(name="worker", namespace=namespace),
        delete_options=client.V1DeleteOptions(grace_period_seconds=0, dry_run=["All"]),
    )
    core.create_namespaced_pod_eviction("worker", namespace, eviction)
    assert core.read_namespaced_pod("worker", namespace).metadata.deletion_timestamp is None, "it was a dry run"
    eviction.delete_options = GRACE
    core.create_namespaced_pod_eviction("worker", namespace, eviction)
    until("the evicted pod's end", lambda: gone(lambda: core.read_namespaced_pod("worker", namespace)))
    step("eviction, dry and real")


def deployments(apps, core, namespace):
    labels = {"app": "web"}
    template = client.V1PodTemplateSpec(
        metadata=client.V1ObjectMeta(labels=labels), spec=shell("x", "exec sleep 3600", labels).spec
    )
    spec = client.V1DeploymentSpec(replicas=1, selector=client.V1LabelSelector(match_labels=labels), template=template)
    apps.create_namespaced_deployment(namespace, client.V1Deployment(metadata=client.V1ObjectMeta(name="web"), spec=spec))
    ready = lambda: apps.read_namespaced_deployment_status("web", namespace).status.ready_replicas
    until("one replica", lambda: ready() == 1)
    scaled = apps.patch_namespaced_deployment_scale("web", namespace, {"spec": {"replicas": 2}})
    assert scaled.spec.replicas == 2, scaled
    until("two replicas", lambda: ready() == 2)
    scale = apps.read_namespaced_deployment_scale("web", namespace)
    scale.spec.replicas = 0
    apps.replace_namespaced_deployment_scale("web", namespace, scale)
    until("none", lambda: core.list_namespaced_pod(namespace, label_selector="app=web").items == [])
    options = client.V1DeleteOptions(api_version="apps/v1", kind="DeleteOptions", propagation_policy="Foreground")
    apps.delete_namespaced_deployment("web", namespace, body=options)
    until("the deployment's end", lambda: gone(lambda: apps.read_namespaced_deployment("web", namespace)))
    assert apps.list_namespaced_replica_set(namespace).items == [], "in the foreground dependents go first"
    step("a Deployment: roll out, scale, delete in the foreground")


def main():
    namespace = sys.argv[1]
    api = config.new_client_from_config()
    core, apps = client.CoreV1Api(api), client.AppsV1Api(api)
    assert client.VersionApi(api).get_code().minor == "35"
    config_maps(core, namespace)
    watching(core, namespace)
    applying(api, namespace)
    pods(core, namespace)
    deployments(apps, core, namespace)


main()
