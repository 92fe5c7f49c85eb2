//! What the expressions of admission may name, and of which types that is.

use crate::{Decl, Env, ObjectType, Type};

fn request() -> Type {
    let text = Type::String;
    let three = |name: &str, last: &'static str| Type::Object(ObjectType::new(name, [("group", Type::String), ("version", Type::String), (last, Type::String)]));
    let kind = three("kubernetes.GroupVersionKind", "kind");
    let resource = three("kubernetes.GroupVersionResource", "resource");
    let user = ObjectType::new("kubernetes.UserInfo", [
        ("username", text.clone()),
        ("uid", text.clone()),
        ("groups", Type::list(text.clone())),
        ("extra", Type::map(Type::String, Type::list(text.clone()))),
    ]);
    Type::Object(ObjectType::new("kubernetes.AdmissionRequest", [
        ("kind", kind.clone()),
        ("resource", resource.clone()),
        ("subResource", text.clone()),
        ("requestKind", kind),
        ("requestResource", resource),
        ("requestSubResource", text.clone()),
        ("name", text.clone()),
        ("namespace", text.clone()),
        ("operation", text),
        ("userInfo", Type::Object(user)),
        ("dryRun", Type::Bool),
        ("options", Type::Dyn),
    ]))
}

/// The type of `namespaceObject`.
pub fn namespace() -> Type {
    let texts = || Type::list(Type::String);
    let named = || Type::map(Type::String, Type::String);
    let condition = ObjectType::new("kubernetes.NamespaceCondition", [
        ("status", Type::String),
        ("type", Type::String),
        ("lastTransitionTime", Type::Timestamp),
        ("message", Type::String),
        ("reason", Type::String),
    ]);
    let metadata = ObjectType::new("kubernetes.NamespaceMetadata", [
        ("name", Type::String),
        ("generateName", Type::String),
        ("namespace", Type::String),
        ("labels", named()),
        ("annotations", named()),
        ("UID", Type::String),
        ("creationTimestamp", Type::Timestamp),
        ("deletionGracePeriodSeconds", Type::Int),
        ("deletionTimestamp", Type::Timestamp),
        ("generation", Type::Int),
        ("resourceVersion", Type::String),
        ("finalizers", texts()),
    ]);
    let status = ObjectType::new("kubernetes.NamespaceStatus", [("conditions", Type::list(Type::Object(condition))), ("phase", Type::String)]);
    Type::Object(ObjectType::new("kubernetes.Namespace", [
        ("metadata", Type::Object(metadata)),
        ("spec", Type::Object(ObjectType::new("kubernetes.NamespaceSpec", [("finalizers", texts())]))),
        ("status", Type::Object(status)),
    ]))
}

/// `object`, `oldObject`, `request`, `authorizer` and `authorizer.requestResource`.
pub fn base() -> Env {
    Env::default()
        .with("object", Decl::ANY)
        .with("oldObject", Decl::ANY)
        .with("request", Decl::of(request()))
        .with("authorizer", Decl::of(Type::Opaque("kubernetes.authorization.Authorizer")))
        .with("authorizer.requestResource", Decl::of(Type::Opaque("kubernetes.authorization.ResourceCheck")))
}
