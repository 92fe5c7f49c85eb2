//! `Impersonate-*` headers.

use http::HeaderMap;

use super::UserInfo;
use crate::request::unescape;
use knarr_registry::ApiError;

/// The user that the headers ask to act as, with what must be allowed for it:
/// (group, resource, subresource, namespace, name).
///
/// # Errors
/// 400 if headers are given without a user.
#[allow(clippy::type_complexity)]
pub fn wanted(
    headers: &HeaderMap,
) -> Result<
    Option<(
        UserInfo,
        Vec<(&'static str, &'static str, String, String, String)>,
    )>,
    ApiError,
> {
    let text = |k: &str| {
        headers
            .get(k)
            .and_then(|v| v.to_str().ok())
            .unwrap_or("")
            .to_owned()
    };
    let name = text("impersonate-user");
    let groups: Vec<String> = headers
        .get_all("impersonate-group")
        .iter()
        .filter_map(|v| v.to_str().ok().map(str::to_owned))
        .collect();
    let uid = text("impersonate-uid");
    let mut checks = Vec::new();
    let mut user = UserInfo {
        name: name.clone(),
        uid: uid.clone(),
        groups: groups.clone(),
        ..UserInfo::default()
    };
    for (k, v) in headers {
        if let Some(key) = k.as_str().strip_prefix("impersonate-extra-") {
            let key = unescape(key, false);
            let v = v.to_str().unwrap_or("").to_owned();
            checks.push((
                "authentication.k8s.io",
                "userextras",
                key.clone(),
                String::new(),
                v.clone(),
            ));
            user.extra.entry(key).or_default().push(v);
        }
    }
    if name.is_empty() {
        if groups.is_empty() && uid.is_empty() && user.extra.is_empty() {
            return Ok(None);
        }
        let quoted = |all: &[String]| {
            all.iter()
                .map(|g| format!("{g:?}"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let list = |all: &[String]| {
            if all.is_empty() {
                "[]string(nil)".to_owned()
            } else {
                format!("[]string{{{}}}", quoted(all))
            }
        };
        let extra = if user.extra.is_empty() {
            "map[string][]string(nil)".to_owned()
        } else {
            let all: Vec<String> = user
                .extra
                .iter()
                .map(|(k, v)| format!("{k:?}:{}", list(v)))
                .collect();
            format!("map[string][]string{{{}}}", all.join(", "))
        };
        return Err(ApiError::bad_request(format!(
            "requested &user.DefaultInfo{{Name:\"\", UID:{uid:?}, Groups:{}, Extra:{extra}}} without impersonating a user name",
            list(&groups)
        )));
    }
    if let Some((ns, sa)) = name
        .strip_prefix("system:serviceaccount:")
        .and_then(|r| r.split_once(':'))
    {
        checks.push((
            "",
            "serviceaccounts",
            String::new(),
            ns.to_owned(),
            sa.to_owned(),
        ));
        if groups.is_empty() {
            user.groups = vec![
                "system:serviceaccounts".into(),
                format!("system:serviceaccounts:{ns}"),
            ];
        }
    } else {
        checks.push(("", "users", String::new(), String::new(), name.clone()));
    }
    for g in &groups {
        checks.push(("", "groups", String::new(), String::new(), g.clone()));
    }
    if !uid.is_empty() {
        checks.push((
            "authentication.k8s.io",
            "uids",
            String::new(),
            String::new(),
            uid,
        ));
    }
    let all = if name == "system:anonymous" {
        "system:unauthenticated"
    } else {
        "system:authenticated"
    };
    if !user
        .groups
        .iter()
        .any(|g| g == all || g == "system:unauthenticated")
    {
        user.groups.push(all.into());
    }
    Ok(Some((user, checks)))
}
