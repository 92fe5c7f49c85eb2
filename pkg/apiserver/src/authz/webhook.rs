//! Another service decides: SubjectAccessReviews to a kubeconfig's server, with answers kept for a while.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use knarr_cel::{Bindings, Decl, Env, Program, Type, Value as Cel, cost};
use knarr_registry::Object;
use serde_json::{Value, json};

use super::{Attributes, Mode};
use crate::{auth::UserInfo, webhook::RemoteService};

/// The most answers that are kept.
const MOST: usize = 8192;

/// What an authorizer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The user may.
    Allow,
    /// The user may not, whatever others say.
    Deny,
    /// Others decide.
    NoOpinion,
}

/// How the service is asked.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long a permission is remembered.
    pub authorized_ttl: Duration,
    /// How long a refusal is remembered.
    pub unauthorized_ttl: Duration,
    /// How long the service may take.
    pub timeout: Duration,
    /// What it means that it does not answer: [`Decision::Deny`] or [`Decision::NoOpinion`].
    pub on_error: Decision,
    /// Expressions over `request` that must all hold for it to be asked.
    pub conditions: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            authorized_ttl: Duration::from_secs(300),
            unauthorized_ttl: Duration::from_secs(30),
            timeout: Duration::from_secs(30),
            on_error: Decision::NoOpinion,
            conditions: Vec::new(),
        }
    }
}

/// The service, and what it said before.
pub struct Webhook {
    service: RemoteService,
    options: Options,
    conditions: Vec<(String, Program)>,
    known: Mutex<HashMap<String, (Instant, Decision, String)>>,
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhook")
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

impl Webhook {
    /// Over a service.
    ///
    /// # Errors
    /// Conditions that cannot be compiled.
    pub fn new(service: RemoteService, options: Options) -> Result<Self, String> {
        let env = Env::default().with("request", Decl::ANY);
        let compile = |text: &String| match Program::compile(text.trim(), &env) {
            Err(e) => Err(format!(
                "matchConditions: {text:?}: compilation failed: {e}"
            )),
            Ok(p) if !matches!(p.result, Type::Bool | Type::Dyn) => {
                Err(format!("matchConditions: {text:?}: must evaluate to bool"))
            }
            Ok(p) => Ok((text.clone(), p)),
        };
        let conditions = options
            .conditions
            .iter()
            .map(compile)
            .collect::<Result<_, _>>()?;
        Ok(Self {
            service,
            options,
            conditions,
            known: Mutex::default(),
        })
    }

    /// What the service says of a request, with its reason.
    pub(super) async fn decide(&self, user: &UserInfo, a: &Attributes) -> (Decision, String) {
        let spec = spec(user, a);
        match self.wants(&spec) {
            Ok(true) => {}
            Ok(false) => return (Decision::NoOpinion, String::new()),
            Err(why) => {
                tracing::warn!(why, "a match condition of an authorizer");
                return (self.options.on_error, String::new());
            }
        }
        let key = spec.to_string();
        {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            match known.get(&key) {
                Some((until, decision, reason)) if *until > Instant::now() => {
                    return (*decision, reason.clone());
                }
                Some(_) => {
                    known.remove(&key);
                }
                None => {}
            }
        }
        let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "metadata": {}, "spec": spec, "status": {"allowed": false}});
        let status = match self.service.post(&review, self.options.timeout).await {
            Ok(v) => v.get("status").cloned().unwrap_or_default(),
            Err(why) => {
                tracing::warn!(why, "an authorizer does not answer");
                return (self.options.on_error, String::new());
            }
        };
        let decision = match (status["allowed"] == true, status["denied"] == true) {
            (true, false) => Decision::Allow,
            (false, true) => Decision::Deny,
            (false, false) => Decision::NoOpinion,
            // It says both: that is an error.
            (true, true) => return (self.options.on_error, String::new()),
        };
        let reason = status.str_at(&["reason"]).to_owned();
        let ttl = if decision == Decision::Allow {
            self.options.authorized_ttl
        } else {
            self.options.unauthorized_ttl
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            let now = Instant::now();
            known.retain(|_, (until, ..)| *until > now);
        }
        if known.len() < MOST && key.len() < 10_000 {
            known.insert(key, (Instant::now() + ttl, decision, reason.clone()));
        }
        (decision, reason)
    }

    /// Whether all conditions hold.
    fn wants(&self, spec: &Value) -> Result<bool, String> {
        let mut failed = None;
        let mut left = cost::MATCH_CONDITIONS_BUDGET;
        for (text, program) in &self.conditions {
            let variables = Bindings(vec![("request", Cel::any(spec))]);
            let (result, spent) = program.eval(&variables, None, left.min(cost::PER_CALL_LIMIT));
            left = left.saturating_sub(spent);
            match result {
                Ok(v) if v.as_bool() == Some(false) => return Ok(false),
                Ok(_) => {}
                Err(e) => failed = Some(format!("{text:?}: {e}")),
            }
        }
        failed.map_or(Ok(true), Err)
    }
}

/// The `spec` of the review.
fn spec(user: &UserInfo, a: &Attributes) -> Value {
    let mut spec = json!({"user": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        spec["uid"] = json!(user.uid);
    }
    if !user.extra.is_empty() {
        spec["extra"] = json!(user.extra);
    }
    let mut what = json!({"verb": a.verb});
    let mut set = |k: &str, v: &str| {
        if !v.is_empty() {
            what[k] = json!(v);
        }
    };
    if a.resource_request {
        let version = if a.version.is_empty() {
            "*"
        } else {
            &a.version
        };
        for (k, v) in [
            ("namespace", a.namespace.as_str()),
            ("group", &a.group),
            ("version", version),
            ("resource", &a.resource),
            ("subresource", &a.subresource),
            ("name", &a.name),
        ] {
            set(k, v);
        }
        spec["resourceAttributes"] = what;
    } else {
        set("path", &a.path);
        spec["nonResourceAttributes"] = what;
    }
    spec
}

/// Reads an AuthorizationConfiguration.
///
/// # Errors
/// Everything that is wrong with it, or with the files it names.
pub fn configuration(text: &str) -> Result<Vec<Mode>, String> {
    let v = knarr_schema::yaml::parse(text.as_bytes()).map_err(|e| e.to_string())?;
    let version = v.str_at(&["apiVersion"]);
    if v.str_at(&["kind"]) != "AuthorizationConfiguration"
        || !matches!(
            version,
            "apiserver.config.k8s.io/v1"
                | "apiserver.config.k8s.io/v1beta1"
                | "apiserver.config.k8s.io/v1alpha1"
        )
    {
        return Err("it is no AuthorizationConfiguration of apiserver.config.k8s.io".into());
    }
    let mut modes = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for (i, a) in v.list_at(&["authorizers"]).iter().enumerate() {
        let at = format!("authorizers[{i}]");
        let (kind, name) = (a.str_at(&["type"]), a.str_at(&["name"]));
        if name.is_empty() {
            return Err(format!("{at}.name: Required value"));
        }
        if matches!(kind, "Node" | "RBAC" | "AlwaysAllow" | "AlwaysDeny") && name != kind.to_lowercase() {
            return Err(format!("expected name {} for authorizer {kind} instead of {name}", kind.to_lowercase()));
        }
        let key = if kind == "Webhook" { name } else { kind };
        if seen.contains(&key) {
            return Err(format!("{at}: Duplicate value: {key:?}"));
        }
        seen.push(key);
        modes.push(match kind {
            "Node" => Mode::Node,
            "RBAC" => Mode::Rbac,
            "AlwaysAllow" => Mode::AlwaysAllow,
            "AlwaysDeny" => Mode::AlwaysDeny,
            "Webhook" => {
                let w = a
                    .get("webhook")
                    .ok_or_else(|| format!("{at}.webhook: Required value"))?;
                Mode::Webhook(Arc::new(
                    service(w).map_err(|why| format!("{at}.webhook{why}"))?,
                ))
            }
            other => return Err(format!("{at}.type: Unsupported value: {other:?}")),
        });
    }
    if modes.is_empty() {
        return Err(
            "authorizers: Required value: at least one authorization mode must be defined".into(),
        );
    }
    Ok(modes)
}

/// `5m`, as Go writes durations.
fn parse(text: &str) -> Option<Duration> {
    knarr_schema::time::parse_duration(text)
        .and_then(|n| u64::try_from(n).ok())
        .map(Duration::from_nanos)
}

fn service(w: &Value) -> Result<Webhook, String> {
    let mut options = Options::default();
    for (field, slot) in [
        ("authorizedTTL", &mut options.authorized_ttl),
        ("unauthorizedTTL", &mut options.unauthorized_ttl),
        ("timeout", &mut options.timeout),
    ] {
        let text = w.str_at(&[field]);
        if !text.is_empty() {
            *slot = parse(text).ok_or_else(|| format!(".{field}: Invalid value: {text:?}"))?;
        }
    }
    options.on_error = match w.str_at(&["failurePolicy"]) {
        "NoOpinion" => Decision::NoOpinion,
        "Deny" => Decision::Deny,
        other => {
            return Err(format!(
                ".failurePolicy: Unsupported value: {other:?}: supported values: \"Deny\", \"NoOpinion\""
            ));
        }
    };
    options.conditions = w
        .list_at(&["matchConditions"])
        .iter()
        .map(|c| c.str_at(&["expression"]).to_owned())
        .collect();
    if w.str_at(&["connectionInfo", "type"]) != "KubeConfigFile" {
        return Err(".connectionInfo.type: only KubeConfigFile is offered".into());
    }
    let path = Path::new(w.str_at(&["connectionInfo", "kubeConfigFile"]));
    let text = std::fs::read_to_string(path)
        .map_err(|e| format!(".connectionInfo.kubeConfigFile: {}: {e}", path.display()))?;
    let remote = RemoteService::parse(&text, path.parent().unwrap_or(Path::new(".")))
        .map_err(|why| format!(".connectionInfo: {why}"))?;
    Webhook::new(remote, options).map_err(|why| format!(".{why}"))
}
