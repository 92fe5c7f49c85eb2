//! Who asks: client certificates, tokens, anonymous; and as whom (impersonation).

pub mod front_proxy;
mod impersonate;
pub mod jwt;
pub mod oidc;
mod tokens;
pub mod webhook;

use std::collections::BTreeMap;

use serde_json::{Value, json};

pub use impersonate::{Impersonation, wanted};
pub use tokens::{Authenticated, Tokens};

/// An authenticated user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// The name.
    pub name: String,
    /// The uid, empty if unknown.
    pub uid: String,
    /// The groups.
    pub groups: Vec<String>,
    /// Anything else the authenticator knows.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A user of a name and groups; `system:authenticated` is added.
    #[must_use]
    pub fn new<S: Into<String>>(
        name: impl Into<String>,
        groups: impl IntoIterator<Item = S>,
    ) -> Self {
        let mut groups: Vec<String> = groups.into_iter().map(Into::into).collect();
        let name = name.into();
        let all = if name == "system:anonymous" {
            "system:unauthenticated"
        } else {
            "system:authenticated"
        };
        if !groups.iter().any(|g| g == all) {
            groups.push(all.into());
        }
        Self {
            name,
            groups,
            ..Self::default()
        }
    }
    /// The user who may do everything.
    #[must_use]
    pub fn admin() -> Self {
        Self::new("system:apiserver", ["system:masters"])
    }
    /// Nobody in particular.
    #[must_use]
    pub fn anonymous() -> Self {
        Self::new("system:anonymous", Vec::<String>::new())
    }
    /// Whether the user is in a group.
    #[must_use]
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
    /// The node's name if the user is a kubelet.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        self.name
            .strip_prefix("system:node:")
            .filter(|_| self.is_in("system:nodes"))
    }
    /// As `userInfo` in reviews.
    #[must_use]
    pub fn value(&self) -> Value {
        let mut v = json!({"username": self.name, "groups": self.groups});
        if !self.uid.is_empty() {
            v["uid"] = json!(self.uid);
        }
        if !self.extra.is_empty() {
            v["extra"] = json!(self.extra);
        }
        v
    }
    /// The user a verified client certificate names.
    ///
    /// # Errors
    /// If the certificate cannot be read or names nobody.
    pub fn of_certificate(der: &[u8]) -> Result<Self, String> {
        let (_, cert) = x509_parser::parse_x509_certificate(der).map_err(|e| e.to_string())?;
        let subject = cert.subject();
        let name = subject
            .iter_common_name()
            .filter_map(|a| a.as_str().ok())
            .last()
            .unwrap_or("")
            .to_owned();
        if name.is_empty() {
            return Err("the certificate has no common name".into());
        }
        let groups: Vec<String> = subject
            .iter_organization()
            .filter_map(|a| a.as_str().ok())
            .map(str::to_owned)
            .collect();
        let mut user = Self::new(name, groups);
        use sha2::Digest;
        let sum: String = sha2::Sha256::digest(der)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        user.extra.insert(
            "authentication.kubernetes.io/credential-id".into(),
            vec![format!("X509SHA256={sum}")],
        );
        Ok(user)
    }
}
