//! Objects that are nested as deep as upstream's decoders go.

mod common;

use http::Request;
use knarr_apiserver::{STACK_BYTES, UserInfo};
use serde_json::json;

/// On a thread with the stack that such objects need, as the program's threads have it.
fn deeply(work: impl Future<Output = ()> + Send + 'static) {
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().thread_stack_size(STACK_BYTES).enable_all().build();
        runtime.expect("a runtime").block_on(work);
    };
    std::thread::Builder::new().stack_size(STACK_BYTES).spawn(run).expect("a thread").join().expect("no panic");
}

fn nested(n: usize) -> String {
    format!("{}1{}", r#"{"a":"#.repeat(n), "}".repeat(n))
}

#[test]
fn deep_objects_are_kept_and_deeper_ones_refused() {
    deeply(async {
        let h = common::start_with(|_| {}).await;
        let c = h.server.client(UserInfo::admin());
        let send = async |method: &str, path: &str, media: &str, body: String| {
            let r = Request::builder().method(method).uri(path).header("content-type", media).body(body.into_bytes()).expect("request");
            match c.request_text(r).await {
                Ok(text) => (200, text),
                Err(kube::Error::Api(s)) => (s.code, s.message.clone()),
                Err(e) => panic!("{e}"),
            }
        };
        let crd = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "things.deep.example"}, "spec": {
            "group": "deep.example", "scope": "Cluster", "names": {"plural": "things", "kind": "Thing"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}});
        assert_eq!(send("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", "application/json", crd.to_string()).await.0, 200);
        let things = "/apis/deep.example/v1/things";
        let thing = |n: usize| format!(r#"{{"apiVersion":"deep.example/v1","kind":"Thing","metadata":{{"name":"t"}},"spec":{}}}"#, nested(n));
        for _ in 0..200 {
            if send("GET", things, "", String::new()).await.0 == 200 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let deep = 9990;
        let (code, text) = send("POST", things, "application/json", thing(deep)).await;
        assert!(code == 200 && text.contains(&nested(deep)), "{code} {text:.300}");
        for (media, body, query) in [
            ("application/merge-patch+json", format!(r#"{{"merged":{}}}"#, nested(deep)), ""),
            ("application/json-patch+json", format!(r#"[{{"op":"add","path":"/added","value":{}}}]"#, nested(deep)), ""),
            ("application/apply-patch+yaml", thing(deep).replace("spec", "applied"), "?fieldManager=m"),
        ] {
            let (code, text) = send("PATCH", &format!("{things}/t{query}"), media, body).await;
            assert!(code == 200 && text.contains(&nested(deep)), "{media}: {code} {text:.300}");
        }
        let (code, text) = send("GET", things, "", String::new()).await;
        assert!(code == 200 && ["spec", "merged", "added", "applied"].iter().all(|f| text.contains(&format!("\"{f}\":{{\"a\":{{"))));
        let (code, why) = send("POST", things, "application/json", thing(10_000)).await;
        assert_eq!(code, 400);
        assert!(why.starts_with("the object provided is unrecognized (must be of type Thing): couldn't get version/kind; json parse error: invalid character '{' exceeded max depth ("), "{why:.300}");
        assert_eq!(send("PATCH", &format!("{things}/t"), "application/merge-patch+json", nested(10_001)).await, (400, "invalid JSON patch".into()));
        let yaml = send("PATCH", &format!("{things}/t?fieldManager=m"), "application/apply-patch+yaml", thing(10_000)).await;
        assert_eq!(yaml, (400, "error decoding patch: error converting YAML to JSON: yaml: exceeded max depth of 10000".into()));
        // What no built-in kind knows is gone, however deep it was.
        let map = format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"m"}},"odd":{}}}"#, nested(deep));
        let (code, text) = send("POST", "/api/v1/namespaces/default/configmaps", "application/json", map).await;
        assert!(code == 200 && !text.contains("odd"), "{code} {text:.300}");
    });
}
