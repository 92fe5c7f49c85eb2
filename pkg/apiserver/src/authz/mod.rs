//! Who may do what: the Node authorizer, RBAC, other services, and the all-powerful group.

mod node;
pub mod rbac;
pub mod webhook;

use std::sync::{Arc, PoisonError, RwLock};

use knarr_registry::{ApiError, Registry};

use crate::{auth::UserInfo, request::Info};

/// What is to be allowed.
#[derive(Clone, Debug, Default)]
pub struct Attributes {
    /// The verb.
    pub verb: String,
    /// Whether a resource is meant; else `path`.
    pub resource_request: bool,
    /// API group.
    pub group: String,
    /// Version; empty is any.
    pub version: String,
    /// Resource.
    pub resource: String,
    /// Subresource.
    pub subresource: String,
    /// Namespace.
    pub namespace: String,
    /// Object name.
    pub name: String,
    /// Path of what is no resource.
    pub path: String,
}

impl From<&Info> for Attributes {
    fn from(i: &Info) -> Self {
        Self {
            verb: i.verb.clone(),
            resource_request: i.resource_request,
            group: i.group.clone(),
            version: i.version.clone(),
            resource: i.resource.clone(),
            subresource: i.subresource.clone(),
            namespace: i.namespace.clone(),
            name: i.name.clone(),
            path: i.path.clone(),
        }
    }
}

impl Attributes {
    /// `pods/log`.
    #[must_use]
    pub fn full_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }
}

/// One of the authorizers.
#[derive(Clone, Debug)]
pub enum Mode {
    /// Kubelets may do what concerns their pods.
    Node,
    /// Roles and bindings.
    Rbac,
    /// Everybody may do everything.
    AlwaysAllow,
    /// Nobody may do anything.
    AlwaysDeny,
    /// Another service decides.
    Webhook(Arc<webhook::Webhook>),
}

impl Mode {
    /// Its name in configurations; `None` for a service.
    fn name(&self) -> Option<&'static str> {
        Some(match self {
            Self::Node => "Node",
            Self::Rbac => "RBAC",
            Self::AlwaysAllow => "AlwaysAllow",
            Self::AlwaysDeny => "AlwaysDeny",
            Self::Webhook(_) => return None,
        })
    }
}

/// The authorizers, asked in order.
pub struct Authorizer {
    modes: RwLock<Arc<[Mode]>>,
    /// Those of the beginning that stay.
    stay: Vec<&'static str>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) rbac: rbac::Rbac,
}

impl Authorizer {
    /// Over the server's own caches.
    #[must_use]
    pub fn new(registry: Arc<Registry>, modes: Vec<Mode>) -> Self {
        Self {
            stay: modes.iter().filter_map(Mode::name).collect(),
            modes: RwLock::new(modes.into()),
            rbac: rbac::Rbac::new(Arc::clone(&registry)),
            registry,
        }
    }

    /// Asks others from now on.
    ///
    /// # Errors
    /// If one is missing that was there from the beginning and is no service.
    pub fn change(&self, modes: Vec<Mode>) -> Result<(), String> {
        let has = |n: &&str| modes.iter().any(|m| m.name() == Some(n));
        let missing: Vec<&str> = self.stay.iter().copied().filter(|n| !has(n)).collect();
        if !missing.is_empty() {
            return Err(format!("missing required types: [{}]", missing.join(" ")));
        }
        *self.modes.write().unwrap_or_else(PoisonError::into_inner) = modes.into();
        Ok(())
    }

    /// Whether the user may; with the reason.
    #[must_use]
    pub fn allows(&self, user: &UserInfo, a: &Attributes) -> (bool, String) {
        if user.is_in("system:masters") {
            return (true, String::new());
        }
        let mut reasons = Vec::new();
        let modes = Arc::clone(&self.modes.read().unwrap_or_else(PoisonError::into_inner));
        for mode in modes.iter() {
            let (allowed, reason) = match mode {
                Mode::Node => (
                    user.node()
                        .is_some_and(|n| node::allows(&self.registry, n, a)),
                    String::new(),
                ),
                Mode::Rbac => self.rbac.allows(user, a),
                Mode::AlwaysAllow => (true, String::new()),
                Mode::AlwaysDeny => (false, "Everything is forbidden.".to_owned()),
                Mode::Webhook(w) => {
                    // Expressions ask too, and they cannot wait otherwise.
                    let answer = tokio::task::block_in_place(|| {
                        tokio::runtime::Handle::current().block_on(w.decide(user, a))
                    });
                    match answer {
                        (webhook::Decision::Allow, reason) => (true, reason),
                        (webhook::Decision::Deny, reason) => {
                            reasons.push(reason);
                            break;
                        }
                        (webhook::Decision::NoOpinion, reason) => (false, reason),
                    }
                }
            };
            if allowed {
                return (true, reason);
            }
            if !reason.is_empty() {
                reasons.push(reason);
            }
        }
        reasons.retain(|r| !r.is_empty());
        (false, reasons.join("\n"))
    }

    /// 403 unless the user may.
    ///
    /// # Errors
    /// 403 in upstream's words.
    pub fn check(&self, user: &UserInfo, a: &Attributes) -> Result<(), ApiError> {
        let (ok, reason) = self.allows(user, a);
        if ok {
            return Ok(());
        }
        Err(denial(user, a, &reason))
    }
}

/// The 403 for attributes.
#[must_use]
pub fn denial(user: &UserInfo, a: &Attributes, reason: &str) -> ApiError {
    let who = &user.name;
    let why = if reason.is_empty() {
        String::new()
    } else {
        format!(": {reason}")
    };
    if !a.resource_request {
        let mut e = ApiError::new(
            403,
            "Forbidden",
            format!(
                "forbidden: User {who:?} cannot {} path {:?}{why}",
                a.verb, a.path
            ),
        );
        e.details = Some(Box::default());
        return e;
    }
    let what = a.full_resource();
    let place = if a.namespace.is_empty() || a.resource == "namespaces" {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {:?}", a.namespace)
    };
    ApiError::forbidden(
        &a.group,
        &a.resource,
        &a.name,
        &format!(
            "User {who:?} cannot {} resource {what:?} in API group {:?} {place}{why}",
            a.verb, a.group
        ),
    )
}
