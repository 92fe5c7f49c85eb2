//! The `authorizer` variable.

/// What an expression asks the authorizer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// Namespace and name of a service account, if it is not about the request's user.
    pub service_account: Option<(String, String)>,
    /// A path that is no resource.
    pub path: String,
    /// The API group.
    pub group: String,
    /// The resource.
    pub resource: String,
    /// The subresource.
    pub subresource: String,
    /// The namespace.
    pub namespace: String,
    /// The object's name.
    pub name: String,
    /// A field selector.
    pub field_selector: String,
    /// A label selector.
    pub label_selector: String,
    /// The verb.
    pub verb: String,
}

/// What the authorizer says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why.
    pub reason: String,
    /// What went wrong, if anything did.
    pub error: Option<String>,
}

/// Answers what expressions ask.
pub trait Authorizer {
    /// Whether a request may do something.
    fn check(&self, check: &Check) -> Decision;
}
