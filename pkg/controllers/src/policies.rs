//! What expressions of ValidatingAdmissionPolicies say of kinds that have no such fields: warnings in
//! the policy's status. They change nothing of what the policy does.

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use knarr_cel::{Composed, Decl, Env, Program, admission, schema};
use knarr_runner::meta::Key;
use knarr_runner::{Action, Cache, Controller, Informers, Plan, Queue};
use knarr_schema::{Catalog, GroupVersion};
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The most kinds that one rule is checked for.
const MOST: usize = 10;

/// Writes `status.typeChecking`.
pub struct TypeChecking {
    policies: Arc<Cache<ValidatingAdmissionPolicy>>,
}

impl TypeChecking {
    /// A controller over these informers.
    pub fn new(i: &Informers) -> Self {
        Self { policies: i.get() }
    }
}

impl Controller for TypeChecking {
    fn name(&self) -> &'static str {
        "validatingadmissionpolicy-status-controller"
    }
    fn watch(&self, _: &Informers, queue: &Queue<Key>) {
        let q = queue.clone();
        self.policies.on_event(move |e| q.add(Key::of(&e.object().metadata)));
    }
    fn synced(&self) -> bool {
        self.policies.has_synced()
    }
    fn plan(&self, key: &Key, _: Timestamp) -> Plan {
        let Some(policy) = self.policies.by_key(key) else { return Plan::none() };
        let generation = policy.metadata.generation.unwrap_or(0);
        let seen = policy.status.as_ref().and_then(|s| s.observed_generation).unwrap_or(0);
        if generation <= seen {
            return Plan::none();
        }
        let name = key.name.clone();
        Plan::one(Action::call(format!("type-check ValidatingAdmissionPolicy {name}"), move |i| async move {
            let spec = serde_json::to_value(&policy.spec).unwrap_or_default();
            let kinds = matched(&spec, &i).await?;
            let parameter = parameter(&spec, &i).await?;
            let warnings = check(&spec, &kinds, parameter.as_ref());
            let checking = if warnings.is_empty() { json!({}) } else { json!({ "expressionWarnings": warnings }) };
            let status = json!({
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": "ValidatingAdmissionPolicy",
                "metadata": { "name": name },
                "status": { "observedGeneration": generation, "typeChecking": checking },
            });
            let api: Api<ValidatingAdmissionPolicy> = Api::all(i.client().clone());
            let how = PatchParams::apply("validatingadmissionpolicy-status").force();
            match api.patch_status(&name, &how, &Patch::Apply(status)).await {
                Err(e) if knarr_runner::is_not_found(&e) => Ok(()),
                other => other.map(drop),
            }
        }))
    }
}

/// A kind: group, version, name.
type Gvk = (String, String, String);

/// Texts of a list, sorted; `None` if one of them stands for many.
fn texts(v: &Value, key: &str) -> Option<Vec<String>> {
    let mut all: Vec<String> = v[key].as_array().into_iter().flatten().filter_map(|t| t.as_str().map(str::to_owned)).collect();
    all.sort_unstable();
    (!all.is_empty() && !all.iter().any(|t| t.contains('*'))).then_some(all)
}

/// The kinds that a policy is about by its rules, and their declarations.
async fn matched(spec: &Value, i: &Informers) -> Result<BTreeMap<Gvk, Decl>, kube::Error> {
    let mut out = BTreeMap::new();
    for rule in spec["matchConstraints"]["resourceRules"].as_array().into_iter().flatten() {
        let (Some(groups), Some(versions)) = (texts(rule, "apiGroups"), texts(rule, "apiVersions")) else { continue };
        let mut resources: Vec<&str> = rule["resources"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        resources.retain(|r| !r.contains(['*', '/']));
        resources.sort_unstable();
        let mut left = MOST;
        let mut pairs = Vec::new();
        for group in &groups {
            for version in &versions {
                pairs.push((group, version));
            }
        }
        for (group, version) in pairs {
            for resource in &resources {
                for (gvk, decl) in find(i, group, version, |plural, _| plural == *resource).await? {
                    out.insert(gvk, decl);
                    left -= 1;
                    if left == 0 {
                        return Ok(out);
                    }
                }
            }
        }
    }
    Ok(out)
}

/// The declaration of a policy's parameters: `None` without any, anything where the kind is not known.
async fn parameter(spec: &Value, i: &Informers) -> Result<Option<Decl>, kube::Error> {
    let Some(kind) = spec.get("paramKind").filter(|k| !k.is_null()) else { return Ok(None) };
    let gv = GroupVersion::parse(kind["apiVersion"].as_str().unwrap_or_default());
    let wanted = kind["kind"].as_str().unwrap_or_default();
    let found = find(i, &gv.group, &gv.version, |_, kind| kind == wanted).await?;
    let exact = found.into_iter().find(|(gvk, _)| gvk.0 == gv.group);
    Ok(Some(exact.map_or(Decl::ANY, |(_, decl)| decl)))
}

/// Kinds of a group and version by plural and name; the legacy group stands for any.
async fn find(i: &Informers, group: &str, version: &str, wanted: impl Fn(&str, &str) -> bool) -> Result<Vec<(Gvk, Decl)>, kube::Error> {
    let known: Vec<_> = Catalog::builtin()
        .resources()
        .iter()
        .filter(|r| (group.is_empty() || r.group == group) && r.version == version && wanted(&r.plural, &r.kind))
        .filter_map(|r| Some(((r.group.to_string(), r.version.to_string(), r.kind.to_string()), schema::builtin(r.ty?))))
        .collect();
    if !known.is_empty() || group.is_empty() || version.contains('/') || group.contains('/') {
        return Ok(known);
    }
    let Some(served) = get(i, &format!("/apis/{group}/{version}")).await? else { return Ok(Vec::new()) };
    let mut out = Vec::new();
    for r in served["resources"].as_array().into_iter().flatten() {
        let (plural, kind) = (r["name"].as_str().unwrap_or_default(), r["kind"].as_str().unwrap_or_default());
        if plural.contains('/') || !wanted(plural, kind) {
            continue;
        }
        let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{plural}.{group}");
        let Some(definition) = get(i, &path).await? else { continue };
        let versions = definition["spec"]["versions"].as_array().cloned().unwrap_or_default();
        let own = versions.iter().find(|v| v["name"] == version).map(|v| &v["schema"]["openAPIV3Schema"]);
        out.extend(own.and_then(|s| schema::custom(s, kind)).map(|d| ((group.to_owned(), version.to_owned(), kind.to_owned()), d)));
    }
    Ok(out)
}

/// What is at a path; `None` if nothing is, or if it may not be read.
async fn get(i: &Informers, path: &str) -> Result<Option<Value>, kube::Error> {
    let request = http::Request::get(path).header("accept", "application/json").body(Vec::new()).map_err(|e| kube::Error::Service(Box::new(e)))?;
    match i.client().request(request).await {
        Ok(v) => Ok(Some(v)),
        Err(e) if knarr_runner::is_not_found(&e) || knarr_runner::is_status(&e, 403) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The warnings about a policy's validations and their messages.
fn check(spec: &Value, kinds: &BTreeMap<Gvk, Decl>, parameter: Option<&Decl>) -> Vec<Value> {
    let envs: Vec<(String, Env)> = kinds.iter().map(|(gvk, decl)| (shown(gvk), env(spec, decl, parameter))).collect();
    let mut out = Vec::new();
    for (n, v) in spec["validations"].as_array().into_iter().flatten().enumerate() {
        for member in ["expression", "messageExpression"] {
            let text = v[member].as_str().unwrap_or_default();
            if text.is_empty() {
                continue;
            }
            let wrong = |(kind, env): &(String, Env)| Program::compile(text, env).err().map(|e| format!("{kind}: {e}\n"));
            let found: Vec<String> = envs.iter().filter_map(wrong).collect();
            if !found.is_empty() {
                out.push(json!({ "fieldRef": format!("spec.validations[{n}].{member}"), "warning": found.join("\n") }));
            }
        }
    }
    out
}

/// `apps/v1, Kind=Deployment`
fn shown((group, version, kind): &Gvk) -> String {
    format!("{group}/{version}, Kind={kind}")
}

/// What a policy's expressions may name where the object is of a kind.
fn env(spec: &Value, object: &Decl, parameter: Option<&Decl>) -> Env {
    let mut env = admission::base().with("namespaceObject", Decl::of(admission::namespace())).with("object", object.clone()).with("oldObject", object.clone());
    if let Some(parameter) = parameter {
        env = env.with("params", parameter.clone());
    }
    let mut known = Composed::default();
    env = env.with("variables", known.decl());
    for v in spec["variables"].as_array().into_iter().flatten() {
        let result = Program::compile(v["expression"].as_str().unwrap_or_default(), &env).ok().map(|p| p.result);
        known.add(v["name"].as_str().unwrap_or_default(), result.as_ref());
        env = env.with("variables", known.decl());
    }
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployments() -> BTreeMap<Gvk, Decl> {
        let row = Catalog::builtin().lookup("apps", "v1", "deployments").unwrap();
        BTreeMap::from([(("apps".into(), "v1".into(), "Deployment".into()), schema::builtin(row.ty.unwrap()))])
    }

    fn warnings(expression: &str) -> Vec<Value> {
        let variables = json!([{"name": "r", "expression": "object.spec.replicas"}, {"name": "none", "expression": "object.none"}]);
        let config = schema::builtin(knarr_schema::types::types().kind("", "v1", "ConfigMap").unwrap());
        check(&json!({"variables": variables, "validations": [{"expression": expression}]}), &deployments(), Some(&config))
    }

    #[test]
    fn a_field_that_a_kind_has_not_is_told() {
        let found = warnings("object.spec.nothing == 1");
        assert_eq!(found, [json!({
            "fieldRef": "spec.validations[0].expression",
            "warning": "apps/v1, Kind=Deployment: ERROR: <input>:1:12: undefined field 'nothing'\n | object.spec.nothing == 1\n | ...........^\n",
        })]);
    }

    #[test]
    fn what_fits_is_not_told() {
        for expression in [
            "object.spec.replicas > 1 && oldObject.metadata.labels.x == 'y'", "object.spec.strategy.rollingUpdate.maxSurge == 'x'", "variables.none == 1",
            "object.metadata.creationTimestamp > timestamp('2020-01-01T00:00:00Z')", "params.data.x == 'a'", "authorizer.group('').resource('pods').check('get').allowed()",
            "namespaceObject.spec.finalizers.size() > 0", "object.spec.template.spec.containers[0].livenessProbe.httpGet.port == 1",
        ] {
            assert_eq!(warnings(expression), Vec::<Value>::new(), "{expression}");
        }
    }

    #[test]
    fn types_are_compared() {
        for (expression, why) in [
            ("object.spec.replicas == 'x'", "'(int, string)'"), ("variables.r == 'x'", "'(int, string)'"), ("object.metadata.creationTimestamp == 'x'", "'(timestamp, string)'"),
            ("params.data.x == 1", "'(string, int)'"), ("params.x == 1", "undefined field 'x'"), ("object.spec.template.spec.containers.all(c, c.image == 1)", "'(string, int)'"),
            ("object.spec.template.spec.containers.all(c, c.resources.limits['cpu'] == '1')", "undefined field 'limits'"), ("object.metadata.managedFields.all(m, m.fieldsV1.x == 1)", "undefined field 'x'"),
        ] {
            let found = warnings(expression);
            assert!(found.first().is_some_and(|w| w["warning"].as_str().unwrap().contains(why)), "{expression}: {found:?}");
        }
    }
}
