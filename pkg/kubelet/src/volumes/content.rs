//! What is in config map, secret, downward API and projected volumes.
use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{
        ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, ServiceAccount,
        ServiceAccountTokenProjection, Volume,
    },
};
use kube::{Api, api::PostParams};

use super::{
    Prepared, VolumeError,
    atomic::{File, Files},
    certificate, rotate_at, trust,
};
use crate::{
    downward::{self, Addresses},
    sources::SourceError,
    spec,
    worker::Shared,
};

/// The files of a content volume.
pub(super) async fn files(
    sh: &Shared,
    pod: &Pod,
    v: &Volume,
    addresses: &Addresses,
    out: &mut Prepared,
) -> Result<Files, VolumeError> {
    let (uid, ns) = (spec::uid(pod), spec::namespace(pod));
    let mut files = Files::new();
    if let Some(c) = &v.config_map {
        let mode = mode_of(c.default_mode, 0o644);
        let data = config_map(sh, uid, ns, &c.name, c.optional).await?;
        let keys = Keys {
            kind: "config",
            items: c.items.as_deref(),
            optional: c.optional,
            mode,
        };
        keys.pick(data, &mut files)?;
    } else if let Some(s) = &v.secret {
        let name = s.secret_name.clone().unwrap_or_default();
        let data = secret(sh, uid, ns, &name, s.optional).await?;
        let keys = Keys {
            kind: "secret",
            items: s.items.as_deref(),
            optional: s.optional,
            mode: mode_of(s.default_mode, 0o644),
        };
        keys.pick(data, &mut files)?;
    } else if let Some(d) = &v.downward_api {
        let mode = mode_of(d.default_mode, 0o644);
        downward_files(sh, pod, d.items.as_deref(), mode, addresses, &mut files)?;
    } else if let Some(p) = &v.projected {
        let mode = mode_of(p.default_mode, 0o644);
        for (index, src) in p.sources.iter().flatten().enumerate() {
            let mut part = Files::new();
            if let Some(c) = &src.config_map {
                let data = config_map(sh, uid, ns, &c.name, c.optional).await?;
                let keys = Keys {
                    kind: "config",
                    items: c.items.as_deref(),
                    optional: c.optional,
                    mode,
                };
                keys.pick(data, &mut part)?;
            }
            if let Some(s) = &src.secret {
                let data = secret(sh, uid, ns, &s.name, s.optional).await?;
                let keys = Keys {
                    kind: "secret",
                    items: s.items.as_deref(),
                    optional: s.optional,
                    mode,
                };
                keys.pick(data, &mut part)?;
            }
            if let Some(d) = &src.downward_api {
                downward_files(sh, pod, d.items.as_deref(), mode, addresses, &mut part)?;
            }
            if let Some(t) = &src.service_account_token {
                let token = token(sh, pod, &v.name, t, out).await?;
                let owner = fs_user(pod);
                let restricted = owner.is_some() || super::fs_group(pod).is_some();
                part.insert(
                    clean(&t.path)?,
                    File {
                        data: token.into_bytes(),
                        mode: if restricted { 0o600 } else { mode },
                        owner,
                    },
                );
            }
            if let Some(b) = &src.cluster_trust_bundle {
                let data = trust::bundle(sh, b).await?;
                part.insert(clean(&b.path)?, File { data, mode, owner: None });
            }
            if let Some(c) = &src.pod_certificate {
                let have = certificate::credential(sh, pod, &v.name, index, c, out).await?;
                let owner = c.user.and_then(|u| u32::try_from(u).ok()).or_else(|| fs_user(pod));
                let restricted = owner.is_some() || super::fs_group(pod).is_some();
                let mode = if restricted { 0o600 } else { mode };
                let bundle = format!("{}{}", have.key, have.chain);
                for (path, text) in [
                    (&c.credential_bundle_path, bundle),
                    (&c.key_path, have.key),
                    (&c.certificate_chain_path, have.chain),
                ] {
                    if let Some(path) = path.as_deref().filter(|p| !p.is_empty()) {
                        part.insert(clean(path)?, File { data: text.into_bytes(), mode, owner });
                    }
                }
            }
            files.extend(part);
        }
    }
    Ok(files)
}

fn mode_of(mode: Option<i32>, default: u32) -> u32 {
    mode.and_then(|m| u32::try_from(m).ok()).unwrap_or(default) & 0o777
}

/// A relative path without `..`.
fn clean(path: &str) -> Result<String, VolumeError> {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    if path.starts_with('/') || parts.is_empty() || parts.contains(&"..") || parts[0].starts_with("..") {
        return Err(VolumeError::Layout(format!("invalid path: {path:?}")));
    }
    Ok(parts.join("/"))
}

/// The user of the token file: that of all containers, when they have the same.
fn fs_user(pod: &Pod) -> Option<u32> {
    let s = spec::spec(pod);
    let common = s.security_context.as_ref().and_then(|c| c.run_as_user);
    let mut user = None;
    for c in spec::inits(pod).iter().chain(spec::mains(pod)) {
        let own = c
            .security_context
            .as_ref()
            .and_then(|c| c.run_as_user)
            .or(common)?;
        if *user.get_or_insert(own) != own {
            return None;
        }
    }
    user.and_then(|u| u32::try_from(u).ok())
}

struct Keys<'a> {
    kind: &'static str,
    items: Option<&'a [KeyToPath]>,
    optional: Option<bool>,
    mode: u32,
}

impl Keys<'_> {
    fn pick(self, data: BTreeMap<String, Vec<u8>>, out: &mut Files) -> Result<(), VolumeError> {
        match self.items {
            None | Some([]) => {
                for (k, data) in data {
                    out.insert(
                        clean(&k)?,
                        File {
                            data,
                            mode: self.mode,
                            owner: None,
                        },
                    );
                }
            }
            Some(items) => {
                for i in items {
                    let Some(bytes) = data.get(&i.key) else {
                        if self.optional == Some(true) {
                            continue;
                        }
                        return Err(VolumeError::Key {
                            kind: self.kind,
                            key: i.key.clone(),
                        });
                    };
                    out.insert(
                        clean(&i.path)?,
                        File {
                            data: bytes.clone(),
                            mode: mode_of(i.mode, self.mode),
                            owner: i.user.and_then(|u| u32::try_from(u).ok()),
                        },
                    );
                }
            }
        }
        Ok(())
    }
}

async fn config_map(
    sh: &Shared,
    uid: &str,
    ns: &str,
    name: &str,
    optional: Option<bool>,
) -> Result<BTreeMap<String, Vec<u8>>, VolumeError> {
    match sh.sources.config_map(uid, ns, name).await {
        Ok(cm) => Ok(config_map_bytes(&cm)),
        Err(SourceError::NotFound { .. }) if optional == Some(true) => Ok(BTreeMap::new()),
        Err(e) => Err(e.into()),
    }
}

fn config_map_bytes(cm: &ConfigMap) -> BTreeMap<String, Vec<u8>> {
    let text = cm
        .data
        .iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.clone().into_bytes()));
    let binary = cm
        .binary_data
        .iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.0.clone()));
    text.chain(binary).collect()
}

async fn secret(
    sh: &Shared,
    uid: &str,
    ns: &str,
    name: &str,
    optional: Option<bool>,
) -> Result<BTreeMap<String, Vec<u8>>, VolumeError> {
    let bytes = |s: &Secret| {
        s.data
            .iter()
            .flatten()
            .map(|(k, v)| (k.clone(), v.0.clone()))
            .collect()
    };
    match sh.sources.secret(uid, ns, name).await {
        Ok(s) => Ok(bytes(&s)),
        Err(SourceError::NotFound { .. }) if optional == Some(true) => Ok(BTreeMap::new()),
        Err(e) => Err(e.into()),
    }
}

fn downward_files(
    sh: &Shared,
    pod: &Pod,
    items: Option<&[DownwardAPIVolumeFile]>,
    mode: u32,
    addresses: &Addresses,
    out: &mut Files,
) -> Result<(), VolumeError> {
    for i in items.unwrap_or_default() {
        let text = if let Some(f) = &i.field_ref {
            downward::field(pod, f, addresses)?
        } else if let Some(r) = &i.resource_field_ref {
            downward::resource(pod, "", r, &sh.allocatable())?
        } else {
            String::new()
        };
        out.insert(
            clean(&i.path)?,
            File {
                data: text.into_bytes(),
                mode: mode_of(i.mode, mode),
                owner: i.user.and_then(|u| u32::try_from(u).ok()),
            },
        );
    }
    Ok(())
}

/// A bound token, asked for anew when the old one is past most of its life.
async fn token(
    sh: &Shared,
    pod: &Pod,
    volume: &str,
    t: &ServiceAccountTokenProjection,
    out: &mut Prepared,
) -> Result<String, VolumeError> {
    let key = (volume.to_owned(), t.path.clone());
    let now = Timestamp::now();
    let account = spec::spec(pod)
        .service_account_name
        .clone()
        .filter(|n| !n.is_empty())
        .unwrap_or_else(|| "default".into());
    let (token, refresh) = match out.tokens.tokens.get(&key) {
        Some((token, refresh, _)) if now < *refresh => (token.clone(), *refresh),
        _ => {
            let Some(client) = sh.client.clone() else {
                return Err(SourceError::NoServer {
                    kind: "serviceaccount",
                    name: account,
                }
                .into());
            };
            let api = Api::<ServiceAccount>::namespaced(client, spec::namespace(pod));
            let request = TokenRequest {
                metadata: Default::default(),
                spec: Some(TokenRequestSpec {
                    audiences: t.audience.clone().filter(|a| !a.is_empty()).map(|a| vec![a]),
                    bound_object_ref: Some(BoundObjectReference {
                        api_version: Some("v1".into()),
                        kind: Some("Pod".into()),
                        name: Some(spec::name(pod).into()),
                        uid: Some(spec::uid(pod).into()),
                    }),
                    expiration_seconds: Some(t.expiration_seconds.unwrap_or(3600)),
                    ..Default::default()
                }),
                status: None,
            };
            let answer: TokenRequest = api
                .create_subresource("token", &account, &PostParams::default(), &request)
                .await
                .map_err(|source| VolumeError::Api {
                    what: format!("failed to fetch token for serviceaccount \"{account}\""),
                    source: Box::new(source),
                })?;
            let status = answer.status.unwrap_or_default();
            let end = status.expiration_timestamp.map_or(now, |t| t.0);
            let refresh = rotate_at(now, end);
            let token = status.token.unwrap_or_default();
            out.tokens
                .tokens
                .insert(key, (token.clone(), refresh, end));
            (token, refresh)
        }
    };
    out.refresh = Some(out.refresh.map_or(refresh, |r| r.min(refresh)));
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside() {
        assert_eq!(clean("a/b").ok().as_deref(), Some("a/b"));
        assert_eq!(clean("./a//b").ok().as_deref(), Some("a/b"));
        for bad in ["", "/a", "../a", "a/../b", "..data"] {
            assert!(clean(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_missing_key_is_named_unless_optional() {
        let data = BTreeMap::from([("a".to_owned(), b"1".to_vec())]);
        let item = |k: &str| KeyToPath { key: k.into(), path: "p".into(), mode: Some(0o400), user: None };
        let mut out = Files::new();
        let items = [item("a")];
        let keys = |items, optional| Keys { kind: "config", items, optional, mode: 0o644 };
        keys(Some(&items[..]), None).pick(data.clone(), &mut out).expect("there");
        assert_eq!(out["p"].mode, 0o400);
        let missing = [item("b")];
        let e = keys(Some(&missing[..]), None).pick(data.clone(), &mut out).expect_err("missing");
        assert_eq!(e.to_string(), "references non-existent config key: b");
        keys(Some(&missing[..]), Some(true)).pick(data, &mut out).expect("optional");
    }
}
