//! Admission: what may change or refuse a write after it is authorized.

mod accounts;
mod certificates;
mod conditions;
mod matching;
mod mutations;
mod node;
mod pods;
mod podsecurity;
mod policies;
mod quota;
mod rbac;
mod various;
mod webhooks;

use std::sync::Arc;

pub use node::audience;

use knarr_registry::ApiError;
use knarr_schema::Resource;
use serde_json::Value;

use crate::{
    auth::UserInfo,
    core::{Core, Ctx},
};

/// What happens to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It is made.
    Create,
    /// It is changed.
    Update,
    /// It is deleted.
    Delete,
    /// Somebody connects to it.
    Connect,
}

/// The circumstances of a write.
pub struct Attrs<'a> {
    /// The request.
    pub ctx: &'a Ctx,
    /// The server.
    pub core: &'a Arc<Core>,
    /// Who.
    pub user: &'a UserInfo,
    /// What.
    pub operation: Operation,
    /// On which row.
    pub resource: &'a Resource,
    /// Through which subresource.
    pub subresource: &'a str,
    /// Where.
    pub namespace: String,
    /// Name; empty while it is to be generated.
    pub name: String,
    /// Nothing is stored.
    pub dry_run: bool,
}

impl Attrs<'_> {
    /// Whether this is about a resource of the core group.
    #[must_use]
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.resource.group == group && self.resource.plural == plural
    }
    /// Whether an object itself is created.
    #[must_use]
    pub fn creates(&self, group: &str, plural: &str) -> bool {
        self.operation == Operation::Create && self.subresource.is_empty() && self.is(group, plural)
    }
    /// Whether a plugin is asked.
    #[must_use]
    pub fn on(&self, plugin: &str) -> bool {
        !self.core.settings.disabled_admission.contains(plugin)
    }
    /// 403 about the object.
    #[must_use]
    pub fn forbidden(&self, why: &str) -> ApiError {
        ApiError::forbidden(&self.resource.group, &self.resource.plural, &self.name, why)
    }
}

/// Mutating admission, in upstream's order of plugins. When a webhook changes the object, the
/// plugins see it again, and so do webhooks that want to.
///
/// # Errors
/// The answer for the client.
pub async fn mutate(a: &Attrs<'_>, obj: &mut Value, old: Option<&Value>) -> Result<(), ApiError> {
    let mut rounds = webhooks::Rounds::default();
    let mut policies = mutations::Rounds::default();
    if a.operation == Operation::Update && a.subresource.is_empty() && a.is("", "pods") && a.on("Priority") {
        pods::keep_priority(obj, old);
    }
    plugins(a, obj).await?;
    changes(a, obj, old, &mut policies, &mut rounds).await?;
    if rounds.changed || policies.changed {
        plugins(a, obj).await?;
        changes(a, obj, old, &mut policies, &mut rounds).await?;
    }
    certificates::requester(a, obj);
    Ok(())
}

/// What policies and webhooks change.
async fn changes(a: &Attrs<'_>, obj: &mut Value, old: Option<&Value>, policies: &mut mutations::Rounds, rounds: &mut webhooks::Rounds) -> Result<(), ApiError> {
    if a.on("MutatingAdmissionPolicy") {
        mutations::mutate(a, obj, old, policies)?;
    }
    if a.on("MutatingAdmissionWebhook") {
        webhooks::mutate(a, obj, old, rounds).await?;
    }
    Ok(())
}

/// The plugins that are asked unless they are disabled, by their names.
pub const PLUGINS: &[&str] = &[
    "CertificateApproval",
    "CertificateSigning",
    "CertificateSubjectRestriction",
    "ClusterTrustBundleAttest",
    "DefaultIngressClass",
    "DefaultStorageClass",
    "DefaultTolerationSeconds",
    "LimitRanger",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionWebhook",
    "NamespaceLifecycle",
    "NodeRestriction",
    "PersistentVolumeClaimResize",
    "PodResizeValidator",
    "PodSecurity",
    "PodTopologyLabels",
    "Priority",
    "ResourceQuota",
    "RuntimeClass",
    "ServiceAccount",
    "StorageObjectInUseProtection",
    "TaintNodesByCondition",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionWebhook",
];

async fn plugins(a: &Attrs<'_>, obj: &mut Value) -> Result<(), ApiError> {
    if a.on("NamespaceLifecycle") {
        various::namespace_lifecycle(a, obj).await?;
    }
    if a.creates("", "pods") {
        if a.on("LimitRanger") {
            pods::limit_ranger(a, obj)?;
        }
        if a.on("ServiceAccount") {
            pods::service_account(a, obj)?;
        }
        if a.on("Priority") {
            pods::priority(a, obj)?;
        }
        if a.on("RuntimeClass") {
            pods::runtime_class(a, obj)?;
        }
        if a.on("DefaultTolerationSeconds") {
            pods::default_tolerations(obj);
        }
    }
    if a.operation == Operation::Update && a.subresource.is_empty() && a.is("", "pods") && a.on("DefaultTolerationSeconds") {
        pods::default_tolerations(obj);
    }
    if a.creates("", "nodes") && a.on("TaintNodesByCondition") {
        node::taint_new(obj);
    }
    if a.on("PodTopologyLabels") {
        pods::topology_labels(a, obj);
    }
    if a.on("StorageObjectInUseProtection") {
        various::storage_object_in_use(a, obj);
    }
    if a.on("DefaultStorageClass") {
        various::default_storage_class(a, obj);
    }
    if a.on("DefaultIngressClass") {
        various::default_ingress_class(a, obj);
    }
    if a.on("Priority") { various::priority_class(a, obj) } else { Ok(()) }
}

/// Validating admission. A deletion and a connection come with no new object.
///
/// # Errors
/// The answer for the client.
pub async fn validate(a: &Attrs<'_>, obj: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    if a.operation == Operation::Delete && a.on("NamespaceLifecycle") {
        various::protected_namespaces(a)?;
    }
    if obj.is_null() && a.on("MutatingAdmissionWebhook") {
        webhooks::mutate(a, &mut Value::Null, old, &mut webhooks::Rounds::default()).await?;
    }
    if a.on("NodeRestriction") {
        node::restrict(a, obj, old)?;
    }
    rbac::escalation(a, obj, old)?;
    certificates::validate(a, obj, old)?;
    if a.on("PodSecurity") {
        podsecurity::validate(a, obj, old)?;
    }
    if a.on("PersistentVolumeClaimResize") {
        various::claim_resize(a, obj, old)?;
    }
    if a.on("PodResizeValidator") {
        pods::resize(a, obj, old)?;
    }
    if a.on("LimitRanger") {
        pods::limits(a, obj, old)?;
    }
    if a.on("ValidatingAdmissionPolicy") {
        policies::validate(a, obj, old)?;
    }
    if a.on("ValidatingAdmissionWebhook") {
        webhooks::validate(a, obj, old).await?;
    }
    if a.on("ResourceQuota") { quota::check(a, obj, old).await } else { Ok(()) }
}
