//! Resources that are answered and not stored: reviews and the old binding.

use std::sync::Arc;

use bytes::Bytes;
use knarr_registry::{ApiError, FieldError, Object};
use serde_json::{Value, json};

use crate::{
    auth::UserInfo,
    authz::Attributes,
    bridge,
    core::Ctx,
    respond::{self, Reply, View},
};

pub(super) async fn serve(ctx: &Arc<Ctx>, body: Bytes) -> Result<Reply, ApiError> {
    if ctx.format.view != View::Full && ctx.info.verb == "create" {
        return Err(ApiError::new(406, "NotAcceptable", "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf"));
    }
    let r = &ctx.resource;
    if r.plural == "bindings" {
        return super::sub::bind(ctx, body, "").await;
    }
    if r.plural == "componentstatuses" {
        let v = json!({"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": []});
        return if ctx.info.name.is_empty() { Ok(respond::object(200, &v, respond::Format { view: View::Full, ..ctx.format })) } else { Err(ApiError::not_found("", "componentstatuses", &ctx.info.name)) };
    }
    let mut v = super::decode_body(ctx, &body).await?;
    if r.plural != "selfsubjectrulesreviews" {
        bridge::track(r, &mut v, None, &ctx.manager(), "");
    }
    let status = match r.plural.as_ref() {
        "selfsubjectreviews" => {
            v.meta_mut().insert("creationTimestamp".into(), json!(knarr_registry::object::now()));
            json!({"userInfo": ctx.user.value()})
        }
        "tokenreviews" => token(ctx, &v).await?,
        "selfsubjectaccessreviews" => access(ctx, &v, &ctx.user)?,
        "subjectaccessreviews" | "localsubjectaccessreviews" => {
            let spec = &v["spec"];
            let mut user = UserInfo {
                name: spec.str_at(&["user"]).into(),
                uid: spec.str_at(&["uid"]).into(),
                groups: spec.list_at(&["groups"]).iter().filter_map(|g| g.as_str().map(str::to_owned)).collect(),
                ..UserInfo::default()
            };
            if user.name.is_empty() && user.groups.is_empty() {
                return Err(ApiError::invalid("authorization.k8s.io", "", "", &[FieldError::invalid("spec.user", "", "at least one of user or group must be specified")]));
            }
            for (k, l) in spec.at(&["extra"]).and_then(Value::as_object).into_iter().flatten() {
                user.extra.insert(k.clone(), l.as_array().into_iter().flatten().filter_map(|x| x.as_str().map(str::to_owned)).collect());
            }
            if r.plural == "localsubjectaccessreviews" && spec.str_at(&["resourceAttributes", "namespace"]) != ctx.info.namespace {
                return Err(ApiError::bad_request(format!("spec.resourceAttributes.namespace must match namespace: {}", ctx.info.namespace)));
            }
            access(ctx, &v, &user)?
        }
        "selfsubjectrulesreviews" => {
            let found = rules(ctx, &v)?;
            v.set_at(&["spec"], json!({}));
            found
        }
        _ => return Err(ApiError::method_not_allowed()),
    };
    v.set_at(&["status"], status);
    Ok(respond::object(201, &bridge::outward(v, r), ctx.format))
}

async fn token(ctx: &Ctx, v: &Value) -> Result<Value, ApiError> {
    let token = v.str_at(&["spec", "token"]);
    if token.is_empty() {
        return Err(ApiError::bad_request("token is required for TokenReview in authentication"));
    }
    let audiences: Vec<String> = v.list_at(&["spec", "audiences"]).iter().filter_map(|a| a.as_str().map(str::to_owned)).collect();
    Ok(match crate::pipeline::token(&ctx.core, token, &audiences).await {
        Ok(a) => json!({"authenticated": true, "user": a.user.value(), "audiences": a.audiences}),
        Err(e) if e == "invalid bearer token" => json!({"user": {}, "error": e}),
        Err(e) => json!({"user": {}, "error": format!("[invalid bearer token, {e}]")}),
    })
}

fn access(ctx: &Ctx, v: &Value, user: &UserInfo) -> Result<Value, ApiError> {
    let spec = &v["spec"];
    let (res, non) = (spec.at(&["resourceAttributes"]), spec.at(&["nonResourceAttributes"]));
    let a = match (res, non) {
        (Some(r), None) => Attributes {
            verb: r.str_at(&["verb"]).into(),
            resource_request: true,
            group: r.str_at(&["group"]).into(),
            version: r.str_at(&["version"]).into(),
            resource: r.str_at(&["resource"]).into(),
            subresource: r.str_at(&["subresource"]).into(),
            namespace: r.str_at(&["namespace"]).into(),
            name: r.str_at(&["name"]).into(),
            path: String::new(),
        },
        (None, Some(n)) => Attributes { verb: n.str_at(&["verb"]).into(), path: n.str_at(&["path"]).into(), ..Attributes::default() },
        (Some(_), Some(_)) => {
            return Err(ApiError::invalid("authorization.k8s.io", "", "", &[FieldError::invalid("spec.nonResourceAttributes", non.cloned().unwrap_or_default(), "cannot be specified in combination with resourceAttributes")]));
        }
        (None, None) => {
            return Err(ApiError::invalid("authorization.k8s.io", "", "", &[FieldError::invalid("spec", Value::Null, "exactly one of nonResourceAttributes or resourceAttributes must be specified")]));
        }
    };
    let (allowed, reason) = ctx.core.authorizer.allows(user, &a);
    let mut s = json!({"allowed": allowed});
    if !reason.is_empty() {
        s["reason"] = json!(reason);
    }
    Ok(s)
}

fn rules(ctx: &Ctx, v: &Value) -> Result<Value, ApiError> {
    let ns = v.str_at(&["spec", "namespace"]);
    if ns.is_empty() {
        return Err(ApiError::bad_request("no namespace on request"));
    }
    let all = ctx.core.authorizer.rbac.rules(&ctx.user, ns);
    let (non, res): (Vec<_>, Vec<_>) = all.into_iter().partition(|r| !r.urls.is_empty());
    Ok(json!({
        "resourceRules": res.iter().map(crate::authz::rbac::Rule::value).collect::<Vec<_>>(),
        "nonResourceRules": non.iter().map(|r| json!({"verbs": r.verbs, "nonResourceURLs": r.urls})).collect::<Vec<_>>(),
        "incomplete": false,
    }))
}
