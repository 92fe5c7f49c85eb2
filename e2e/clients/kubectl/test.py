"""kubectl's commands, one after the other: python3 test.py KUBECTL"""

import base64
import json
import pathlib
import subprocess
import sys
import threading

KUBECTL = sys.argv[1]


def kubectl(*words, stdin=None, code=0, env=None):
    """Runs kubectl; what it prints, errors after output."""
    import os
    done = subprocess.run([KUBECTL, *words], input=stdin, capture_output=True, text=True, timeout=60, env={**os.environ, **(env or {})}, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == code, f"kubectl {' '.join(words)} ended with {done.returncode}: {said}"
    return said


def shown(what, *checks):
    for ok in checks:
        assert ok, what
    print(f"ok kubectl {what}", flush=True)


def has(text, *words):
    for w in words:
        assert w in text, f"{w!r} is not in {text!r}"
    return True


def get(kind, name, path, *more):
    return kubectl("get", kind, name, "-o", f"jsonpath={{{path}}}", *more)


def see(*parts):
    """A manifest of several objects."""
    return "\n---\n".join(json.dumps(p) for p in parts)


def deployment(name, replicas=1, image="registry.invalid/a:1"):
    labels = {"app": name}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": labels}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {
            "containers": [{"name": "c", "image": image, "ports": [{"containerPort": 80}]}]}}}}


def making():
    has(kubectl("create", "namespace", "n1"), "namespace/n1 created")
    has(kubectl("create", "configmap", "cm", "--from-literal=a=1", "--from-literal=b=2"), "configmap/cm created")
    has(kubectl("create", "configmap", "cm", code=1), 'configmaps "cm" already exists')
    has(kubectl("create", "secret", "generic", "s", "--from-literal=k=v"), "secret/s created")
    has(kubectl("create", "secret", "docker-registry", "d", "--docker-username=u", "--docker-password=p"), "secret/d created")
    has(kubectl("create", "deployment", "web", "--image=registry.invalid/web:1", "--replicas=2", "--port=80"), "deployment.apps/web created")
    has(kubectl("create", "job", "j", "--image=registry.invalid/j"), "job.batch/j created")
    has(kubectl("create", "cronjob", "cj", "--image=registry.invalid/j", "--schedule=*/5 * * * *"), "cronjob.batch/cj created")
    has(kubectl("create", "job", "from", "--from=cronjob/cj"), "job.batch/from created")
    has(kubectl("create", "service", "clusterip", "svc", "--tcp=80:8080"), "service/svc created")
    has(kubectl("create", "service", "nodeport", "np", "--tcp=80:8080"), "service/np created")
    has(kubectl("create", "ingress", "ing", "--rule=a.example/*=svc:80"), "ingress.networking.k8s.io/ing created")
    has(kubectl("create", "quota", "q", "--hard=configmaps=100"), "resourcequota/q created")
    has(kubectl("create", "pdb", "b", "--selector=app=web", "--min-available=1"), "poddisruptionbudget.policy/b created")
    has(kubectl("create", "priorityclass", "pc", "--value=1000"), "priorityclass.scheduling.k8s.io/pc created")
    has(kubectl("create", "serviceaccount", "sa"), "serviceaccount/sa created")
    has(kubectl("create", "role", "r", "--verb=get,list", "--resource=pods"), "role.rbac.authorization.k8s.io/r created")
    has(kubectl("create", "rolebinding", "rb", "--role=r", "--user=plain"), "rolebinding.rbac.authorization.k8s.io/rb created")
    has(kubectl("create", "clusterrole", "cr", "--verb=get", "--resource=nodes"), "created")
    has(kubectl("create", "clusterrolebinding", "crb", "--clusterrole=cr", "--serviceaccount=default:sa"), "created")
    has(kubectl("run", "p", "--image=registry.invalid/p", "--labels=app=p"), "pod/p created")
    has(kubectl("run", "dry", "--image=registry.invalid/p", "--dry-run=server"), "pod/dry created (server dry run)")
    has(kubectl("get", "pod", "dry", code=1), 'pods "dry" not found')
    has(kubectl("create", "-f", "-", stdin=see({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "gen-"}})), "configmap/gen-")
    shown("create: 20 kinds by their own commands, generateName, dry run")


def looking():
    for form, word in (("wide", "IMAGES"), ("yaml", "apiVersion: apps/v1"), ("json", '"kind": "Deployment"'), ("name", "deployment.apps/web"),
                       ("jsonpath={.spec.replicas}", "2"), ("go-template={{.spec.replicas}}", "2"), ("custom-columns=N:.metadata.name", "web")):
        has(kubectl("get", "deployment", "web", "-o", form), word)
    has(kubectl("get", "deploy,svc,cm"), "deployment.apps/web", "service/svc", "configmap/cm")
    has(kubectl("get", "all", "-A"), "service/kubernetes", "deployment.apps/web", "cronjob.batch/cj")
    has(kubectl("get", "pods", "--show-labels", "-l", "app=p"), "app=p")
    has(kubectl("get", "pods", "--field-selector", "metadata.name=p", "-o", "name"), "pod/p")
    has(kubectl("get", "cm", "-L", "x", "--sort-by=.metadata.name", "--chunk-size=1"), "cm")
    has(kubectl("get", "--raw", "/apis/apps/v1"), '"deployments"')
    has(kubectl("get", "cm", "nothing", "--ignore-not-found"), "")
    has(kubectl("get", "nonsense", code=1), "the server doesn't have a resource type")
    has(kubectl("get", "deploy", "web", "--subresource=scale"), "DESIRED", "2")
    for kind in ("deployment/web", "service/svc", "configmap/cm", "secret/s", "pod/p", "job/j", "cronjob/cj", "ingress/ing", "quota/q", "pdb/b", "role/r", "sa/sa",
                 "namespace/n1", "priorityclass/pc", "clusterrole/cr"):
        has(kubectl("describe", kind), "Name:", kind.split("/")[1])
    shown("get in every form, describe of 15 kinds")
    has(kubectl("api-resources", "--verbs=list", "-o", "wide"), "deployments", "CATEGORIES")
    has(kubectl("api-resources", "--api-group=apps", "--no-headers", "-o", "name"), "daemonsets.apps")
    has(kubectl("api-versions"), "apps/v1", "v1")
    has(kubectl("explain", "deployment.spec.template.spec.containers", "--api-version=apps/v1"), "KIND:", "image")
    has(kubectl("explain", "hpa", "--api-version=autoscaling/v1", "--recursive"), "targetCPUUtilizationPercentage")
    has(kubectl("explain", "pod", "--output=plaintext-openapiv2"), "KIND:")
    has(kubectl("version"), "Server Version: v1.37")
    has(kubectl("cluster-info"), "is running at")
    shown("api-resources, api-versions, explain, version, cluster-info")


def changing():
    has(kubectl("label", "deploy", "web", "x=y"), "labeled")
    has(kubectl("label", "deploy", "web", "x=z", code=1), "already has a value")
    has(kubectl("label", "deploy", "web", "x=z", "--overwrite"), "labeled")
    has(kubectl("label", "deploy", "web", "x-"), "unlabeled")
    has(kubectl("annotate", "deploy", "web", "note=hello"), "annotated")
    has(get("deploy", "web", ".metadata.annotations.note"), "hello")
    editor = pathlib.Path("editor")
    editor.write_text("#!/bin/sh\nsed -i 's/note: hello/note: edited/' \"$1\"\n")
    editor.chmod(0o755)
    has(kubectl("edit", "deploy", "web", env={"KUBE_EDITOR": str(editor.resolve())}), "deployment.apps/web edited")
    has(get("deploy", "web", ".metadata.annotations.note"), "edited")
    shown("label, annotate, edit")
    for kind, patch in (("strategic", '{"spec":{"template":{"spec":{"containers":[{"name":"web","env":[{"name":"A","value":"1"}]}]}}}}'),
                        ("merge", '{"metadata":{"labels":{"m":"1"}}}'), ("json", '[{"op":"replace","path":"/spec/replicas","value":3}]')):
        has(kubectl("patch", "deploy", "web", f"--type={kind}", "-p", patch), "patched")
    has(get("deploy", "web", ".spec.replicas"), "3")
    has(kubectl("patch", "deploy", "web", "--subresource=status", "--type=merge", "-p", '{"status":{"replicas":3}}'), "patched")
    has(kubectl("scale", "deploy", "web", "--replicas=5", "--current-replicas=3"), "scaled")
    has(kubectl("scale", "deploy", "web", "--replicas=6", "--current-replicas=3", code=1), "Expected replicas to be 3, was 5")
    has(kubectl("set", "image", "deploy/web", "web=registry.invalid/web:2"), "image updated")
    has(kubectl("set", "env", "deploy/web", "B=2"), "env updated")
    has(kubectl("set", "env", "deploy/web", "--list"), "B=2")
    has(kubectl("set", "resources", "deploy/web", "--limits=cpu=200m,memory=64Mi"), "resource requirements updated")
    has(kubectl("set", "serviceaccount", "deploy/web", "sa"), "serviceaccount updated")
    has(kubectl("set", "selector", "svc", "svc", "a=b"), "selector updated")
    has(kubectl("set", "subject", "rolebinding", "rb", "--user=other"), "subjects updated")
    has(kubectl("expose", "deploy", "web", "--port=80", "--name=exposed"), "service/exposed exposed")
    has(kubectl("autoscale", "deploy", "web", "--min=1", "--max=4", "--cpu=50%"), "autoscaled")
    has(kubectl("rollout", "pause", "deploy/web"), "paused")
    has(kubectl("rollout", "resume", "deploy/web"), "resumed")
    has(kubectl("rollout", "restart", "deploy/web"), "restarted")
    has(kubectl("rollout", "history", "deploy/web"), "web")
    has(kubectl("rollout", "status", "deploy/web", "--watch=false"), "Waiting for deployment")
    shown("patch (three types and a subresource), scale, set, expose, autoscale, rollout")


def applying():
    manifest = see(deployment("a"), {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"x": "1"}})
    has(kubectl("apply", "-f", "-", stdin=manifest), "deployment.apps/a created", "configmap/c created")
    has(kubectl("apply", "-f", "-", stdin=manifest), "deployment.apps/a unchanged", "configmap/c unchanged")
    other = see(deployment("a", 4), {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"y": "2"}})
    has(kubectl("diff", "-f", "-", stdin=other, code=1), "+  replicas: 4", "-  x:")
    has(kubectl("apply", "-f", "-", stdin=other), "deployment.apps/a configured", "configmap/c configured")
    has(get("cm", "c", ".data"), '{"y":"2"}')
    has(kubectl("diff", "-f", "-", stdin=other), "")
    has(kubectl("apply", "view-last-applied", "cm/c"), '"y": "2"')
    has(kubectl("apply", "-f", "-", "--prune", "-l", "app=a", "--prune-allowlist=apps/v1/Deployment", stdin=see(deployment("a", 4))), "deployment.apps/a")
    own = see({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ss"}, "data": {"x": "1"}})
    has(kubectl("apply", "--server-side", "-f", "-", stdin=own), "configmap/ss serverside-applied")
    theirs = own.replace('"1"', '"2"')
    said = kubectl("apply", "--server-side", "--field-manager=other", "-f", "-", stdin=theirs, code=1)
    has(said, 'Apply failed with 1 conflict: conflict with "kubectl": .data.x', "--force-conflicts")
    has(kubectl("apply", "--server-side", "--field-manager=other", "--force-conflicts", "-f", "-", stdin=theirs), "serverside-applied")
    has(kubectl("diff", "--server-side", "--field-manager=other", "-f", "-", stdin=theirs), "")
    # What was applied by the client is taken over.
    has(kubectl("apply", "--server-side", "-f", "-", stdin=see({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"z": "3"}})), "serverside-applied")
    has(get("cm", "c", ".data"), '{"z":"3"}')
    has(kubectl("get", "cm", "ss", "-o", "yaml", "--show-managed-fields"), "manager: other")
    bad = see({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "bad"}, "dota": {}})
    has(kubectl("apply", "-f", "-", stdin=bad, code=1), 'unknown field "dota"')
    has(kubectl("apply", "--validate=warn", "-f", "-", stdin=bad), 'Warning: unknown field "dota"', "created")
    shown("apply: twice, diff, last applied, prune, server-side with conflicts and force, strict validation")
    text = kubectl("get", "cm", "ss", "-o", "json")
    new = json.loads(text)
    new["data"]["x"] = "replaced"
    has(kubectl("replace", "-f", "-", stdin=json.dumps(new)), "replaced")
    has(kubectl("replace", "-f", "-", stdin=text, code=1), "the object has been modified")
    has(kubectl("replace", "--force", "-f", "-", stdin=see({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ss"}, "data": {"f": "1"}})), "replaced")
    base = pathlib.Path("kustom")
    base.mkdir()
    (base / "kustomization.yaml").write_text("namePrefix: k-\nresources: [d.json]\nconfigMapGenerator: [{name: g, literals: [a=b]}]\n")
    (base / "d.json").write_text(json.dumps(deployment("d")))
    has(kubectl("apply", "-k", str(base)), "deployment.apps/k-d created", "configmap/k-g-")
    has(kubectl("delete", "-k", str(base)), 'deployment.apps "k-d" deleted')
    shown("replace with a conflict and by force, kustomize")


def people():
    has(kubectl("auth", "whoami"), "admin", "system:masters")
    has(kubectl("auth", "can-i", "create", "pods"), "yes")
    has(kubectl("auth", "can-i", "delete", "nodes", "--as=plain", code=1), "no")
    has(kubectl("auth", "can-i", "get", "pods", "--as=other"), "yes")
    has(kubectl("auth", "can-i", "--list", "--as=other"), "pods")
    has(kubectl("get", "secrets", "--context=plain", code=1), 'secrets is forbidden: User "plain" cannot list resource "secrets" in API group "" in the namespace "default"')
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "rec", "namespace": "default"}, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]}
    has(kubectl("auth", "reconcile", "-f", "-", stdin=see(role)), "reconciled")
    token = kubectl("create", "token", "sa", "--audience=me", "--duration=1h", "--bound-object-kind=Secret", "--bound-object-name=s").strip()
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    shown("auth whoami, can-i, reconcile; create token", claims["aud"] == ["me"], claims["kubernetes.io"]["secret"]["name"] == "s")
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}}
    has(kubectl("create", "-f", "-", stdin=see(node)), "node/n created")
    has(kubectl("taint", "node", "n", "k=v:NoSchedule"), "tainted")
    has(kubectl("cordon", "n"), "node/n cordoned")
    has(kubectl("get", "nodes"), "SchedulingDisabled")
    has(kubectl("uncordon", "n"), "node/n uncordoned")
    has(kubectl("drain", "n", "--ignore-daemonsets"), "node/n drained")
    has(kubectl("describe", "node", "n"), "k=v:NoSchedule")
    subprocess.run(["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "k", "-subj", "/CN=me", "-out", "csr"],
                   check=True, capture_output=True)
    csr = {"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": "me"}, "spec": {
        "request": base64.b64encode(pathlib.Path("csr").read_bytes()).decode(), "signerName": "example.com/s", "usages": ["client auth"]}}
    has(kubectl("create", "-f", "-", stdin=see(csr)), "created")
    has(kubectl("certificate", "approve", "me"), "approved")
    has(kubectl("get", "csr", "me"), "Approved", "example.com/s")
    has(kubectl("certificate", "deny", "me", code=1), "")
    shown("taint, cordon, drain, certificate approve")


def waiting():
    def later():
        kubectl("patch", "pod", "p", "--subresource=status", "--type=merge", "-p", '{"status":{"conditions":[{"type":"Ready","status":"True"}],"phase":"Running"}}')
    threading.Timer(0.5, later).start()
    has(kubectl("wait", "pod/p", "--for=condition=Ready", "--timeout=30s"), "condition met")
    has(kubectl("wait", "pod/p", "--for=jsonpath={.status.phase}=Running", "--timeout=30s"), "condition met")
    has(kubectl("wait", "pod/p", "--for=condition=Nonsense", "--timeout=1s", code=1), "timed out waiting")
    event = {"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "namespace": "default"}, "type": "Warning", "reason": "Because", "message": "something",
             "involvedObject": {"apiVersion": "v1", "kind": "Pod", "name": "p", "namespace": "default"}, "lastTimestamp": "2026-01-01T00:00:00Z"}
    has(kubectl("create", "-f", "-", stdin=see(event)), "created")
    has(kubectl("events", "--for=pod/p", "--types=Warning"), "Because", "something")
    watch = subprocess.Popen([KUBECTL, "get", "cm", "-w", "-o", "name", "--watch-only"], stdout=subprocess.PIPE, text=True)
    threading.Timer(1, lambda: kubectl("create", "cm", "watched")).start()
    line = watch.stdout.readline()
    watch.kill()
    watch.wait()
    shown("wait, events, get --watch", line == "configmap/watched\n")


def definitions():
    crd = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "boats.sea.example"}, "spec": {
        "group": "sea.example", "scope": "Namespaced", "names": {"plural": "boats", "singular": "boat", "kind": "Boat", "shortNames": ["bt"], "categories": ["all"]},
        "versions": [{"name": "v1", "served": True, "storage": True, "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.crew", "statusReplicasPath": ".status.crew"}},
                      "additionalPrinterColumns": [{"name": "Crew", "type": "integer", "jsonPath": ".spec.crew"}],
                      "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                          "spec": {"type": "object", "description": "What the boat is", "properties": {"crew": {"type": "integer", "minimum": 1}}},
                          "status": {"type": "object", "properties": {"crew": {"type": "integer"}}}}}}}]}}
    has(kubectl("apply", "-f", "-", stdin=see(crd)), "created")
    has(kubectl("wait", "crd/boats.sea.example", "--for=condition=Established", "--timeout=20s"), "condition met")
    boat = {"apiVersion": "sea.example/v1", "kind": "Boat", "metadata": {"name": "b"}, "spec": {"crew": 2}}
    has(kubectl("apply", "-f", "-", stdin=see(boat)), "boat.sea.example/b created")
    has(kubectl("get", "bt"), "CREW", "2")
    has(kubectl("get", "all"), "boat.sea.example/b")
    has(kubectl("scale", "boat/b", "--replicas=7"), "scaled")
    has(kubectl("get", "boat", "b", "--subresource=scale"), "DESIRED", "7")
    has(kubectl("patch", "boat", "b", "--type=merge", "-p", '{"spec":{"crew":0}}', code=1), "should be greater than or equal to 1")
    has(kubectl("explain", "boat.spec"), "What the boat is", "crew")
    has(kubectl("delete", "crd", "boats.sea.example"), "deleted")
    has(kubectl("get", "--raw", "/apis/sea.example", code=1), "NotFound")
    shown("a custom resource: columns, categories, scale, validation, explain")


def removing():
    has(kubectl("delete", "cm", "cm", "c"), 'configmap "cm" deleted', 'configmap "c" deleted')
    has(kubectl("delete", "cm", "cm", code=1), 'configmaps "cm" not found')
    has(kubectl("delete", "deploy", "a", "--cascade=orphan", "--wait=false"), "deleted")
    has(kubectl("delete", "pod", "p", "--force", "--grace-period=0"), "force deleted")
    has(kubectl("delete", "svc", "-l", "app=web"), 'service "exposed" deleted')
    has(kubectl("delete", "job", "--all"), 'job.batch "j" deleted')
    has(kubectl("delete", "deploy", "web", "--dry-run=server"), "(server dry run)")
    has(kubectl("delete", "-f", "-", stdin=see({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}})), 'secret "s" deleted')
    has(kubectl("delete", "--raw", "/api/v1/namespaces/default/configmaps/ss"), '"status":"Success"')
    shown("delete by name, label, file, all, raw; orphans, force, dry run")


for part in (making, looking, changing, applying, people, waiting, definitions, removing):
    part()
