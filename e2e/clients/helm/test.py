"""Helm's commands with a chart made here: python3 test.py HELM KUBECTL"""

import json
import pathlib
import subprocess
import sys

HELM, KUBECTL = sys.argv[1:]


def run(program, *words, code=0):
    done = subprocess.run([program, *words], capture_output=True, text=True, timeout=120, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == code, f"{' '.join([program, *words])} ended with {done.returncode}: {said}"
    return said


def helm(*words, code=0):
    return run(HELM, *words, code=code)


def kubectl(*words, code=0):
    return run(KUBECTL, *words, code=code)


def has(text, *words):
    for w in words:
        assert w in text, f"{w!r} is not in {text!r}"


def shown(what):
    print(f"ok helm {what}", flush=True)


HOOK = """
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .Release.Name }}-%(name)s
  annotations:
    helm.sh/hook: %(hook)s
    helm.sh/hook-delete-policy: before-hook-creation
data: {revision: "{{ .Release.Revision }}"}
"""


def chart():
    c = pathlib.Path("chart")
    (c / "templates").mkdir(parents=True)
    (c / "crds").mkdir()
    (c / "Chart.yaml").write_text("apiVersion: v2\nname: boats\nversion: 1.0.0\nappVersion: '1'\n")
    (c / "values.yaml").write_text("replicas: 1\ntext: first\n")
    (c / "crds" / "boat.yaml").write_text(json.dumps({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "boats.helm.example"}, "spec": {
            "group": "helm.example", "scope": "Namespaced", "names": {"plural": "boats", "kind": "Boat"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {"spec": {"type": "object", "properties": {"crew": {"type": "integer"}}}}}}}]}}))
    (c / "templates" / "deployment.yaml").write_text("""
apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}, labels: {app: {{ .Release.Name }}}}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: {{ .Release.Name }}}}
  template:
    metadata: {labels: {app: {{ .Release.Name }}}}
    spec: {containers: [{name: c, image: registry.invalid/a}]}
""")
    (c / "templates" / "map.yaml").write_text("""
apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}-map}
data:
  text: {{ .Values.text | quote }}
  found: {{ dig "data" "a" "nothing" (lookup "v1" "ConfigMap" "default" "beforehand") | quote }}
  cronjobs: {{ .Capabilities.APIVersions.Has "batch/v1/CronJob" | quote }}
  minor: {{ .Capabilities.KubeVersion.Minor | quote }}
""")
    (c / "templates" / "boat.yaml").write_text("""
{{ if ne .Values.text "second" }}
apiVersion: helm.example/v1
kind: Boat
metadata: {name: {{ .Release.Name }}}
spec: {crew: 2}
{{ end }}
""")
    for name, hook in (("before", "pre-install,pre-upgrade"), ("after", "post-install"), ("back", "post-rollback"), ("bye", "post-delete")):
        (c / "templates" / f"{name}.yaml").write_text(HOOK % {"name": name, "hook": hook})
    (c / "templates" / "NOTES.txt").write_text("Sails as {{ .Release.Name }}.\n")
    return str(c)


def get(kind, name, path):
    return kubectl("get", kind, name, "-o", f"jsonpath={{{path}}}")


def main():
    c = chart()
    kubectl("create", "cm", "beforehand", "--from-literal=a=found")
    has(helm("template", "r", c), "found: \"nothing\"")
    dry = helm("install", "r", c, "--dry-run=server", "--set", "text=second")
    has(dry, "found: \"found\"", "minor: \"37\"", "cronjobs: \"true\"")
    has(kubectl("get", "deploy"), "No resources found")
    shown("template, --dry-run=server with lookup and the server's APIs")
    has(helm("install", "r", c), "STATUS: deployed", "Sails as r.")
    assert get("cm", "r-map", ".data.found") == "found" and get("boat", "r", ".spec.crew") == "2"
    assert get("cm", "r-before", ".data.revision") == "1" and get("cm", "r-after", ".data.revision") == "1"
    helm("install", "r", c, code=1)
    shown("install: definitions of the chart, hooks, notes; the same name again is refused")
    has(helm("upgrade", "r", c, "--set", "replicas=3,text=second"), "STATUS: deployed", "REVISION: 2")
    assert get("deploy", "r", ".spec.replicas") == "3" and get("cm", "r-map", ".data.text") == "second"
    assert get("cm", "r-before", ".data.revision") == "2"
    kubectl("get", "boat", "r", code=1)
    has(helm("upgrade", "r", c, "--set", "replicas=-1", code=1), "must be greater than or equal to 0")
    has(helm("history", "r"), "superseded", "deployed", "failed")
    shown("upgrade: changes, what is gone is deleted, what is invalid fails")
    has(helm("rollback", "r", "1"), "Rollback was a success")
    assert get("deploy", "r", ".spec.replicas") == "1" and get("cm", "r-back", ".data.revision") and get("boat", "r", ".spec.crew") == "2"
    has(helm("list"), "r", "deployed", "boats-1.0.0")
    releases = json.loads(helm("list", "-A", "-o", "json"))
    assert [r["name"] for r in releases] == ["r"] and releases[0]["revision"] == "4", releases
    has(helm("status", "r"), "STATUS: deployed")
    has(helm("get", "manifest", "r"), "kind: Deployment")
    has(helm("get", "values", "r", "--revision", "2"), "replicas: 3")
    has(helm("get", "hooks", "r"), "post-rollback")
    shown("rollback, list, history, status, get")
    has(helm("upgrade", "--install", "other", c, "--create-namespace", "--namespace", "sea"), "STATUS: deployed")
    has(helm("list", "-A"), "other", "sea")
    has(helm("uninstall", "other", "--namespace", "sea"), "uninstalled")
    shown("upgrade --install into a namespace that is made")
    has(helm("uninstall", "r", "--keep-history"), "uninstalled")
    has(kubectl("get", "deploy"), "No resources found")
    has(helm("history", "r"), "uninstalled")
    assert get("cm", "r-bye", ".metadata.name") == "r-bye"
    helm("uninstall", "r")
    has(kubectl("get", "secrets", "-l", "owner=helm"), "No resources found")
    kubectl("get", "crd", "boats.helm.example")
    shown("uninstall, its hook and history; definitions stay")


main()
