"""The official Python client: CRUD, every type of patch, watches, the dynamic client, custom objects."""

import threading

from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException

config.load_kube_config()
core, apps, custom = client.CoreV1Api(), client.AppsV1Api(), client.CustomObjectsApi()


def shown(what, ok=True):
    assert ok, what
    print(f"ok python {what}", flush=True)


def refused(code, call, *args, **named):
    try:
        call(*args, **named)
    except ApiException as e:
        assert e.status == code, (code, e)
        return e
    raise AssertionError(f"not refused with {code}")


def deployment(name):
    labels = {"app": name}
    container = client.V1Container(name="c", image="registry.invalid/a:1", resources=client.V1ResourceRequirements(requests={"cpu": "100m"}))
    template = client.V1PodTemplateSpec(metadata=client.V1ObjectMeta(labels=labels), spec=client.V1PodSpec(containers=[container]))
    spec = client.V1DeploymentSpec(replicas=2, selector=client.V1LabelSelector(match_labels=labels), template=template)
    return client.V1Deployment(metadata=client.V1ObjectMeta(name=name, labels=labels), spec=spec)


def objects():
    made = apps.create_namespaced_deployment("default", deployment("d"))
    read = apps.read_namespaced_deployment("d", "default")
    assert read.metadata.uid == made.metadata.uid and read.spec.strategy.type == "RollingUpdate"
    assert read.metadata.creation_timestamp.tzinfo is not None
    read.spec.replicas = 3
    changed = apps.replace_namespaced_deployment("d", "default", read)
    assert changed.spec.replicas == 3 and changed.metadata.generation == 2
    refused(409, apps.replace_namespaced_deployment, "d", "default", read)
    refused(409, apps.create_namespaced_deployment, "default", deployment("d"))
    refused(404, apps.read_namespaced_deployment, "no", "default")
    bad = deployment("bad")
    bad.spec.selector.match_labels = {"other": "x"}
    assert "selector" in refused(422, apps.create_namespaced_deployment, "default", bad).body
    scale = apps.read_namespaced_deployment_scale("d", "default")
    assert scale.spec.replicas == 3
    status = apps.patch_namespaced_deployment_status("d", "default", {"status": {"replicas": 3}})
    assert status.status.replicas == 3
    # A list of operations is a JSON patch, an object a strategic merge patch.
    patched = apps.patch_namespaced_deployment("d", "default", [{"op": "replace", "path": "/spec/replicas", "value": 5}])
    assert patched.spec.replicas == 5
    patched = apps.patch_namespaced_deployment("d", "default", {"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "x"}]}}}})
    assert len(patched.spec.template.spec.containers) == 2
    patched = apps.patch_namespaced_deployment("d", "default", {"spec": {"template": {"spec": {"containers": [{"name": "only", "image": "x"}]}}}},
                                               _content_type="application/merge-patch+json")
    assert len(patched.spec.template.spec.containers) == 1
    applied = core.patch_namespaced_config_map("applied", "default", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": {"a": "1"}},
                                               field_manager="python", force=True, _content_type="application/apply-patch+yaml")
    assert applied.metadata.managed_fields[0].operation == "Apply"
    gone = apps.delete_namespaced_deployment("d", "default", propagation_policy="Background")
    assert (gone["status"] if isinstance(gone, dict) else gone.status) == "Success", gone
    shown("create, read, replace, conflicts, scale, status, all patches, apply, delete")


def lists():
    for i in range(25):
        core.create_namespaced_config_map("default", client.V1ConfigMap(metadata=client.V1ObjectMeta(name=f"l{i:02}", labels={"l": str(i % 5)}), data={"i": str(i)}))
    assert len(core.list_namespaced_config_map("default", label_selector="l in (1,2)").items) == 10
    assert len(core.list_namespaced_config_map("default", field_selector="metadata.name=l07").items) == 1
    names, token = [], None
    while True:
        page = core.list_namespaced_config_map("default", label_selector="l", limit=10, _continue=token)
        names += [i.metadata.name for i in page.items]
        token = page.metadata._continue
        if not token:
            break
    assert names == [f"l{i:02}" for i in range(25)]
    core.delete_collection_namespaced_config_map("default", label_selector="l=1")
    shown("selectors, pages, a collection deleted", len(core.list_namespaced_config_map("default", label_selector="l").items) == 20)


def watches():
    begin = core.list_namespaced_config_map("default").metadata.resource_version

    def act():
        core.create_namespaced_config_map("default", client.V1ConfigMap(metadata=client.V1ObjectMeta(name="w"), data={"a": "1"}))
        core.patch_namespaced_config_map("w", "default", {"data": {"a": "2"}})
        core.delete_namespaced_config_map("w", "default")

    threading.Timer(0.2, act).start()
    seen, w = [], watch.Watch()
    for event in w.stream(core.list_namespaced_config_map, "default", resource_version=begin, timeout_seconds=20):
        seen.append((event["type"], event["object"].data))
        if event["type"] == "DELETED":
            w.stop()
    assert seen == [("ADDED", {"a": "1"}), ("MODIFIED", {"a": "2"}), ("DELETED", {"a": "2"})], seen
    ends = list(watch.Watch().stream(core.list_namespaced_secret, "default", timeout_seconds=1))
    shown("watch from a revision, its time limit", ends == [])


def others():
    d = dynamic.DynamicClient(client.ApiClient())
    maps = d.resources.get(api_version="v1", kind="ConfigMap")
    maps.create(namespace="default", body={"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "dyn"}, "data": {"a": "1"}})
    assert maps.get(name="dyn", namespace="default").data.a == "1"
    maps.server_side_apply(namespace="default", name="dyn", field_manager="d", force_conflicts=True,
                           body={"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "dyn"}, "data": {"a": "3"}})
    assert maps.get(name="dyn", namespace="default").data.a == "3"
    first = next(iter(maps.watch(namespace="default", field_selector="metadata.name=dyn", timeout=10)))
    assert first["type"] == "ADDED"
    maps.delete(name="dyn", namespace="default")
    shown("dynamic client: discovery, create, apply, watch, delete")
    extension = client.ApiextensionsV1Api()
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": {"n": {"type": "integer", "default": 4}}}, "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}}
    crd = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "things.py.example"}, "spec": {
        "group": "py.example", "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"},
        "versions": [{"name": "v1", "served": True, "storage": True, "subresources": {"status": {}}, "schema": {"openAPIV3Schema": schema}}]}}
    extension.create_custom_resource_definition(crd)
    w = watch.Watch()
    for event in w.stream(extension.list_custom_resource_definition, field_selector="metadata.name=things.py.example", timeout_seconds=20):
        if any(c.type == "Established" and c.status == "True" for c in (event["object"].status.conditions or [])):
            w.stop()
    at = ("py.example", "v1", "default", "things")
    custom.create_namespaced_custom_object(*at, {"apiVersion": "py.example/v1", "kind": "Thing", "metadata": {"name": "t"}, "spec": {}})
    custom.patch_namespaced_custom_object_status(*at, "t", {"status": {"x": 1}})
    t = custom.get_namespaced_custom_object(*at, "t")
    assert t["spec"] == {"n": 4} and t["status"] == {"x": 1}
    assert len(custom.list_namespaced_custom_object(*at)["items"]) == 1
    custom.delete_namespaced_custom_object(*at, "t")
    shown("custom objects: defaults, status, list")
    core.create_namespaced_service_account("default", client.V1ServiceAccount(metadata=client.V1ObjectMeta(name="py")))
    request = client.AuthenticationV1TokenRequest(spec=client.V1TokenRequestSpec(audiences=["a"], expiration_seconds=3600))
    token = core.create_namespaced_service_account_token("py", "default", request).status.token
    review = client.AuthenticationV1Api().create_token_review(client.V1TokenReview(spec=client.V1TokenReviewSpec(token=token, audiences=["a"])))
    assert review.status.authenticated and review.status.user.username == "system:serviceaccount:default:py"
    assert client.VersionApi().get_code().minor == "37" and len(client.ApisApi().get_api_versions().groups) > 15
    shown("token request and review, version, groups")


for part in (objects, lists, watches, others):
    part()
