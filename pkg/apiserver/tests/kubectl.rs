//! Stock kubectl against a listening server. Needs kubectl (`KNARR_KUBECTL` or on the path); where
//! there is none the test says so and ends.

mod common;

use std::process::Command;

struct Kubectl<'a> {
    program: String,
    h: &'a common::Harness,
}

impl Kubectl<'_> {
    fn run(&self, args: &[&str]) -> (bool, String) {
        let dir = self.h.dir.path();
        let out = Command::new(&self.program)
            .env("KUBECONFIG", dir.join("kubeconfig"))
            .env("HOME", dir)
            .args(args)
            .output()
            .expect("kubectl starts");
        let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        (out.status.success(), text)
    }
    fn ok(&self, args: &[&str], part: &str) {
        let (ok, text) = self.run(args);
        assert!(ok && text.contains(part), "kubectl {args:?}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_kubectl_works() {
    let program = std::env::var("KNARR_KUBECTL").unwrap_or_else(|_| "kubectl".into());
    if Command::new(&program).arg("version").arg("--client").output().is_err() {
        println!("skipped: there is no {program}; set KNARR_KUBECTL");
        return;
    }
    let h = common::start().await;
    let _ = (&h.kubeconfig, &h.ca, &h.admin, &h.server);
    let k = Kubectl { program, h: &h };
    let file = h.dir.path().join("d.yaml");
    let manifest = |n: u8| format!("apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\nspec:\n  replicas: {n}\n  selector: {{matchLabels: {{app: web}}}}\n  template:\n    metadata: {{labels: {{app: web}}}}\n    spec: {{containers: [{{name: c, image: busybox}}]}}\n");
    std::fs::write(&file, manifest(2)).expect("written");
    let f = file.to_str().expect("utf-8");
    k.ok(&["create", "serviceaccount", "default"], "created");
    k.ok(&["apply", "-f", f], "deployment.apps/web created");
    std::fs::write(&file, manifest(3)).expect("written");
    k.ok(&["apply", "-f", f], "configured");
    k.ok(&["apply", "-f", f], "unchanged");
    k.ok(&["get", "deploy", "web"], "0/3");
    k.ok(&["scale", "deploy", "web", "--replicas=5"], "scaled");
    k.ok(&["describe", "deploy", "web"], "5 desired");
    k.ok(&["patch", "deploy", "web", "-p", r#"{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"nginx"}]}}}}"#], "patched");
    k.ok(&["get", "deploy", "web", "-o", "jsonpath={.spec.template.spec.containers[*].image}"], "nginx");
    k.ok(&["explain", "deployment.spec.replicas"], "Number of desired pods");
    k.ok(&["api-resources"], "endpointslices");
    k.ok(&["run", "p", "--image=busybox"], "pod/p created");
    k.ok(&["wait", "--for=jsonpath={.status.phase}=Pending", "pod/p", "--timeout=5s"], "condition met");
    k.ok(&["delete", "pod", "p"], "deleted");
    k.ok(&["auth", "whoami"], "kubernetes-admin");
    k.ok(&["apply", "--server-side", "--force-conflicts", "-f", f], "serverside-applied");
    // A list, for which kubectl reads OpenAPI version 2 in protobuf.
    let map = |n: u8| format!("- apiVersion: v1\n  kind: ConfigMap\n  metadata: {{name: listed-{n}}}\n  data: {{k: v{n}}}\n");
    std::fs::write(&file, format!("apiVersion: v1\nkind: List\nitems:\n{}{}", map(1), map(2))).expect("written");
    k.ok(&["apply", "-f", f], "configmap/listed-2 created");
    k.ok(&["apply", "-f", f], "configmap/listed-2 unchanged");
    let (ok, text) = k.run(&["create", "cm", "A_b"]);
    assert!(!ok && text.contains("a lowercase RFC 1123 subdomain"), "{text}");
}
