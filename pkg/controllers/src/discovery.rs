//! Which collections the API serves.

use knarr_runner::Informers;
use serde_json::Value;
use std::collections::HashMap;

/// One served collection, in its group's preferred version.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Resource {
    /// Group, empty for core.
    pub group: String,
    /// Version.
    pub version: String,
    /// Plural name.
    pub plural: String,
    /// Kind.
    pub kind: String,
    /// Whether it lives in namespaces.
    pub namespaced: bool,
    /// Verbs.
    pub verbs: Vec<String>,
}

impl Resource {
    /// The path of the collection, in a namespace where one is given.
    pub fn path(&self, ns: &str) -> String {
        let root = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        if ns.is_empty() {
            format!("{root}/{}", self.plural)
        } else {
            format!("{root}/namespaces/{ns}/{}", self.plural)
        }
    }
    /// Whether it can do that.
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }
}

async fn get(i: &Informers, path: &str) -> Result<Value, kube::Error> {
    let req = http::Request::get(path)
        .header("accept", "application/json")
        .body(Vec::new())
        .map_err(|e| kube::Error::Service(Box::new(e)))?;
    i.client().request(req).await
}

fn text<'a>(v: &'a Value, k: &str) -> &'a str {
    v.get(k).and_then(Value::as_str).unwrap_or("")
}

/// All collections (no subresources). `failed` names group versions that could not be read, with
/// the reason.
pub async fn discover(i: &Informers) -> Result<(Vec<Resource>, Vec<(String, String)>), kube::Error> {
    let mut versions: Vec<(String, String)> = vec![(String::new(), "v1".to_owned())];
    let groups = get(i, "/apis").await?;
    for g in groups.get("groups").and_then(Value::as_array).into_iter().flatten() {
        let name = text(g, "name");
        let preferred = g.get("preferredVersion").map_or("", |p| text(p, "version"));
        versions.push((name.to_owned(), preferred.to_owned()));
        for v in g.get("versions").and_then(Value::as_array).into_iter().flatten() {
            let v = text(v, "version");
            if v != preferred {
                versions.push((name.to_owned(), v.to_owned()));
            }
        }
    }
    let lists = futures::future::join_all(versions.iter().map(|(g, v)| async move {
        let path = if g.is_empty() { format!("/api/{v}") } else { format!("/apis/{g}/{v}") };
        (g, v, get(i, &path).await)
    }))
    .await;
    let mut seen: HashMap<(String, String), ()> = HashMap::new();
    let (mut out, mut failed) = (Vec::new(), Vec::new());
    for (g, v, list) in lists {
        let list = match list {
            Ok(l) => l,
            Err(e) => {
                failed.push((format!("{g}/{v}"), knarr_runner::message(&e)));
                continue;
            }
        };
        for r in list.get("resources").and_then(Value::as_array).into_iter().flatten() {
            let plural = text(r, "name").to_owned();
            if plural.contains('/') || seen.insert((g.clone(), plural.clone()), ()).is_some() {
                continue;
            }
            out.push(Resource {
                group: g.clone(),
                version: v.clone(),
                plural,
                kind: text(r, "kind").to_owned(),
                namespaced: r.get("namespaced").and_then(Value::as_bool).unwrap_or(false),
                verbs: r
                    .get("verbs")
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                    .filter_map(|v| v.as_str().map(str::to_owned))
                    .collect(),
            });
        }
    }
    Ok((out, failed))
}
