//! Versions of objects: by rules of our own, or by a definition's conversion webhook.

use std::{collections::HashMap, time::Duration};

use knarr_registry::{ApiError, Object};
use knarr_schema::Resource;
use serde_json::{Value, json};

use crate::{bridge, core::Core, webhook};

/// How long a conversion webhook may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// From memory to the row's version.
///
/// # Errors
/// 500 if the webhook fails.
pub async fn outward(core: &Core, all: Vec<Value>, r: &Resource) -> Result<Vec<Value>, ApiError> {
    let all = match &r.conversion {
        Some(hook) if !r.plain => convert(core, hook, all, &r.api_version(), r).await?,
        _ => all,
    };
    Ok(all.into_iter().map(|v| bridge::outward(v, r)).collect())
}

/// One object, as [`outward`].
///
/// # Errors
/// 500 if the webhook fails.
pub async fn outward_one(core: &Core, v: Value, r: &Resource) -> Result<Value, ApiError> {
    outward(core, vec![v], r).await?.pop().ok_or_else(|| ApiError::internal("the object was lost in conversion"))
}

/// From the row's version to the one that is stored.
///
/// # Errors
/// 500 if the webhook fails.
pub async fn inward(core: &Core, v: Value, r: &Resource) -> Result<Value, ApiError> {
    let v = match (&r.conversion, &r.stored_as) {
        (Some(hook), Some(stored)) if !r.plain => {
            let mut all = convert(core, hook, vec![v], &stored.to_string(), r).await?;
            all.pop().ok_or_else(|| ApiError::internal("the object was lost in conversion"))?
        }
        _ => v,
    };
    Ok(bridge::inward(v, r))
}

/// Has the webhook convert those objects that are not in the wanted version.
async fn convert(core: &Core, hook: &Value, mut all: Vec<Value>, to: &str, r: &Resource) -> Result<Vec<Value>, ApiError> {
    // Objects of one list may come from several versions, but one question holds one.
    let mut parts: HashMap<String, Vec<usize>> = HashMap::new();
    for (i, v) in all.iter().enumerate() {
        let from = v.str_at(&["apiVersion"]);
        if from != to {
            parts.entry(from.to_owned()).or_default().push(i);
        }
    }
    for (from, places) in parts {
        let failed = |why: String| ApiError::new(500, "InternalError", format!("conversion webhook for {from}, Kind={} failed: {why}", r.kind));
        let versions = hook.list_at(&["conversionReviewVersions"]);
        let Some(version) = versions.iter().filter_map(Value::as_str).find(|v| matches!(*v, "v1" | "v1beta1")) else {
            return Err(failed("webhook does not accept known ConversionReview versions (v1, v1beta1)".into()));
        };
        let uid = uuid::Uuid::new_v4().to_string();
        let objects: Vec<&Value> = places.iter().filter_map(|i| all.get(*i)).collect();
        let question = json!({"kind": "ConversionReview", "apiVersion": format!("apiextensions.k8s.io/{version}"),
            "request": {"uid": uid, "desiredAPIVersion": to, "objects": objects}});
        let answer = webhook::post(core, &hook["clientConfig"], &question, TIMEOUT).await.map_err(failed)?;
        let Some(response) = answer.at(&["response"]) else { return Err(failed("no response provided".into())) };
        if version == "v1" && response.str_at(&["uid"]) != uid {
            return Err(failed(format!("expected response.uid={uid:?}, got {:?}", response.str_at(&["uid"]))));
        }
        if response.str_at(&["result", "status"]) != "Success" {
            let why = response.str_at(&["result", "message"]);
            return Err(failed(if why.is_empty() { "invalid response: result.status was not Success".into() } else { why.to_owned() }));
        }
        let made = response.list_at(&["convertedObjects"]);
        if made.len() != places.len() {
            return Err(failed(format!("webhook returned {} objects, expected {}", made.len(), places.len())));
        }
        for (i, new) in places.iter().zip(made) {
            let Some(old) = all.get_mut(*i) else { continue };
            *old = restored(old, new, to, r).map_err(failed)?;
        }
    }
    Ok(all)
}

/// A converted object with the metadata it had: a webhook may change labels and annotations only.
fn restored(old: &Value, new: &Value, to: &str, r: &Resource) -> Result<Value, String> {
    if new.str_at(&["apiVersion"]) != to {
        return Err(format!("returned invalid converted object at index 0: invalid groupVersion (expected {to}, received {})", new.str_at(&["apiVersion"])));
    }
    if new.str_at(&["kind"]) != r.kind {
        return Err(format!("returned invalid converted object at index 0: invalid kind (expected {}, received {})", r.kind, new.str_at(&["kind"])));
    }
    if !new.get("metadata").is_some_and(Value::is_object) {
        return Err("returned invalid metadata: it is no object".into());
    }
    let mut out = new.clone();
    let mut meta = old.get("metadata").cloned().unwrap_or_else(|| json!({}));
    if let Some(m) = meta.as_object_mut() {
        for f in ["labels", "annotations"] {
            match new.at(&["metadata", f]) {
                Some(v) => m.insert(f.into(), v.clone()),
                None => m.remove(f),
            };
        }
    }
    if let Some(o) = out.as_object_mut() {
        o.insert("metadata".into(), meta);
    }
    Ok(out)
}
