//! MutatingAdmissionWebhook and ValidatingAdmissionWebhook.

mod review;

use std::{collections::HashSet, sync::Arc, time::Duration};

use knarr_registry::{ApiError, Object};
use knarr_schema::Resource;
use serde_json::Value;

use super::{
    Attrs,
    matching::{Scope, exempt, operation},
};
use crate::{bridge, webhook};

/// One webhook of a configuration.
struct Hook {
    /// Configuration and place in it.
    id: String,
    config: Arc<Value>,
    place: usize,
}

impl Hook {
    fn spec(&self) -> &Value {
        self.config.list_at(&["webhooks"]).get(self.place).unwrap_or(&Value::Null)
    }
    fn name(&self) -> &str {
        self.spec().str_at(&["name"])
    }
    fn ignores_failure(&self) -> bool {
        self.spec().str_at(&["failurePolicy"]) == "Ignore"
    }
    fn timeout(&self) -> Duration {
        Duration::from_secs(self.spec().at(&["timeoutSeconds"]).and_then(Value::as_u64).unwrap_or(10).clamp(1, 30))
    }
}

/// The review of a request as one of a row's, for those that only evaluate it.
pub(super) fn question(a: &Attrs<'_>, row: &Resource, obj: &Value, old: Option<&Value>) -> Value {
    review::question(a, row, obj, old, "", "v1")
}

/// Why a webhook's word is not there, or what it said.
enum Failure {
    /// It could not be asked.
    Call(String),
    /// It said no, or the request may not go on in any case.
    Refused(ApiError),
}

fn hooks(a: &Attrs<'_>, plural: &str) -> Vec<Hook> {
    let Ok(kind) = a.core.kind(plural) else { return Vec::new() };
    let snapshot = kind.cache.snapshot();
    let mut out = Vec::new();
    for e in snapshot.range("") {
        let config = e.shared();
        for place in 0..config.list_at(&["webhooks"]).len() {
            out.push(Hook { id: format!("{}/{place}", e.name), config: Arc::clone(config), place });
        }
    }
    out
}

/// The row as which a webhook wants to see the request; `None` if it does not.
fn wanted(h: &Hook, a: &Attrs<'_>, obj: &Value, old: Option<&Value>) -> Result<Option<Arc<Resource>>, ApiError> {
    let Some(row) = Scope::of(h.spec(), "rules").covers(a, obj, old)? else { return Ok(None) };
    Ok(conditions_hold(h, a, &row, obj, old)?.then_some(row))
}

/// Whether a webhook's `matchConditions` hold; if that cannot be said its failure policy decides.
fn conditions_hold(h: &Hook, a: &Attrs<'_>, row: &Resource, obj: &Value, old: Option<&Value>) -> Result<bool, ApiError> {
    let all = h.spec().list_at(&["matchConditions"]);
    if all.is_empty() {
        return Ok(true);
    }
    let shown = if obj.is_null() { Value::Null } else { bridge::outward(obj.clone(), row) };
    let old = old.map(|o| bridge::outward(o.clone(), row));
    let review = review::question(a, row, &shown, old.as_ref(), "", "v1");
    match super::conditions::hold(a, all, &review["request"]) {
        Ok(yes) => Ok(yes),
        Err(why) if h.ignores_failure() => {
            tracing::warn!(webhook = h.name(), why, "a webhook's conditions cannot be evaluated and it is left out");
            Ok(false)
        }
        Err(why) => Err(a.forbidden(&why)),
    }
}

/// Asks one webhook; the patch of a mutating one, if it sent any.
async fn ask(h: &Hook, a: &Attrs<'_>, row: &Resource, obj: &Value, old: Option<&Value>, mutating: bool) -> Result<Option<Value>, Failure> {
    if a.dry_run && !matches!(h.spec().str_at(&["sideEffects"]), "None" | "NoneOnDryRun") {
        return Err(Failure::Refused(ApiError::bad_request(format!("admission webhook {:?} does not support dry run", h.name()))));
    }
    let versions = h.spec().list_at(&["admissionReviewVersions"]);
    let Some(version) = versions.iter().filter_map(Value::as_str).find(|v| matches!(*v, "v1" | "v1beta1")) else {
        return Err(Failure::Call("could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)".into()));
    };
    let uid = uuid::Uuid::new_v4().to_string();
    let question = review::question(a, row, obj, old, &uid, version);
    let answer = webhook::post(a.core, &h.spec()["clientConfig"], &question, h.timeout())
        .await
        .map_err(|e| Failure::Call(format!("failed to call webhook: {e}")))?;
    let (patch, warnings) = review::answer(&answer, &uid, version, mutating, h.name())?;
    for w in warnings {
        a.ctx.warn(w);
    }
    Ok(patch)
}

/// What a failure means to the request; `Ok` if the webhook does not mind.
fn settle(h: &Hook, f: Failure) -> Result<(), ApiError> {
    match f {
        Failure::Refused(e) => Err(e),
        Failure::Call(why) if h.ignores_failure() => {
            tracing::warn!(webhook = h.name(), why, "a webhook could not be asked and is ignored");
            Ok(())
        }
        Failure::Call(why) => Err(ApiError::internal(format!("failed calling webhook {:?}: {why}", h.name()))),
    }
}

/// What one pass over the mutating webhooks did.
#[derive(Default)]
pub(super) struct Rounds {
    before: Vec<String>,
    again: HashSet<String>,
    second: bool,
    output: Option<Value>,
    /// Whether the object was changed.
    pub changed: bool,
}

/// One pass over the mutating webhooks; the second one asks only those that want it.
pub(super) async fn mutate(a: &Attrs<'_>, obj: &mut Value, old: Option<&Value>, rounds: &mut Rounds) -> Result<(), ApiError> {
    if exempt(a) {
        return Ok(());
    }
    let all = hooks(a, "mutatingwebhookconfigurations");
    if rounds.output.as_ref().is_some_and(|o| o != obj) {
        rounds.again.extend(std::mem::take(&mut rounds.before));
    }
    for h in all {
        if rounds.second && !rounds.again.contains(&h.id) {
            continue;
        }
        let Some(row) = wanted(&h, a, obj, old)? else { continue };
        let shown = if obj.is_null() { Value::Null } else { bridge::outward(obj.clone(), &row) };
        let old_shown = old.map(|o| bridge::outward(o.clone(), &row));
        match ask(&h, a, &row, &shown, old_shown.as_ref(), true).await {
            Err(f) => settle(&h, f)?,
            Ok(None) => {}
            Ok(Some(patch)) => {
                if obj.is_null() {
                    return Err(ApiError::internal(format!("admission webhook {:?} attempted to modify the object, which is not supported for this operation", h.name())));
                }
                let mut next = shown.clone();
                knarr_schema::patch::json(&mut next, &patch).map_err(|e| ApiError::internal(e.to_string()))?;
                if !next.is_object() {
                    return Err(ApiError::internal(format!("admission webhook {:?} replaced the object by something that is none", h.name())));
                }
                let (next, _) = bridge::normalize(&row, &next, "Ignore").map_err(|e| ApiError::internal(e.message))?;
                if next != shown {
                    *obj = bridge::inward(next, &row);
                    rounds.changed = true;
                    rounds.again.extend(std::mem::take(&mut rounds.before));
                }
            }
        }
        if h.spec().str_at(&["reinvocationPolicy"]) == "IfNeeded" {
            rounds.before.push(h.id);
        }
    }
    rounds.second = true;
    // Only who wants to be asked again wants to know whether the object changed since.
    rounds.output = (!rounds.before.is_empty()).then(|| obj.clone());
    Ok(())
}

/// All validating webhooks at once; the first refusal in their order is the answer.
pub(super) async fn validate(a: &Attrs<'_>, obj: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    if exempt(a) {
        return Ok(());
    }
    let mut asked = Vec::new();
    for h in hooks(a, "validatingwebhookconfigurations") {
        if let Some(row) = wanted(&h, a, obj, old)? {
            asked.push((h, row));
        }
    }
    let calls = asked.iter().map(|(h, row)| async move {
        let shown = if obj.is_null() { Value::Null } else { bridge::outward(obj.clone(), row) };
        let old = old.map(|o| bridge::outward(o.clone(), row));
        match ask(h, a, row, &shown, old.as_ref(), false).await {
            Ok(_) => Ok(()),
            Err(f) => settle(h, f),
        }
    });
    futures::future::join_all(calls).await.into_iter().collect()
}
