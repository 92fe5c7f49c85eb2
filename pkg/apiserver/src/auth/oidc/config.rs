//! `AuthenticationConfiguration`: issuers of tokens, and which requests may be anonymous.

use std::sync::OnceLock;

use knarr_cel::{Decl, Env, ObjectType, Program, Type};
use knarr_registry::FieldError;
use serde::Deserialize;

/// The whole file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthenticationConfiguration {
    /// `apiserver.config.k8s.io/v1`.
    #[serde(default)]
    pub api_version: String,
    /// `AuthenticationConfiguration`.
    #[serde(default)]
    pub kind: String,
    /// Issuers.
    #[serde(default)]
    pub jwt: Vec<JwtAuthenticator>,
    /// Anonymous requests; without it the flag decides.
    #[serde(default)]
    pub anonymous: Option<Anonymous>,
}

/// Which requests may come without credentials.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Anonymous {
    /// Any at all.
    pub enabled: bool,
    /// Only those of these paths; all if there are none.
    #[serde(default)]
    pub conditions: Vec<AnonymousCondition>,
}

/// A path of anonymous requests.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AnonymousCondition {
    /// The path.
    pub path: String,
}

/// Tokens of one issuer.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JwtAuthenticator {
    /// Who issues them.
    pub issuer: Issuer,
    /// What their claims must be.
    #[serde(default)]
    pub claim_validation_rules: Vec<ClaimValidationRule>,
    /// Who the user is.
    pub claim_mappings: ClaimMappings,
    /// What the user must be.
    #[serde(default)]
    pub user_validation_rules: Vec<UserValidationRule>,
}

/// An issuer and how it is reached.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Issuer {
    /// `iss` of its tokens.
    pub url: String,
    /// Where its discovery document is, if not below the URL.
    #[serde(default, rename = "discoveryURL")]
    pub discovery_url: String,
    /// Authorities of its certificate, PEM; the system's if empty.
    #[serde(default)]
    pub certificate_authority: String,
    /// `aud` of tokens for this cluster.
    #[serde(default)]
    pub audiences: Vec<String>,
    /// `MatchAny`.
    #[serde(default)]
    pub audience_match_policy: String,
    /// Not used: there is one network.
    #[serde(default)]
    pub egress_selector_type: String,
}

/// One rule about claims: a claim with a value, or an expression.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ClaimValidationRule {
    /// A claim.
    pub claim: String,
    /// Its value.
    pub required_value: String,
    /// An expression over `claims`.
    pub expression: String,
    /// What is said if it is false.
    pub message: String,
}

/// One rule about the user.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct UserValidationRule {
    /// An expression over `user`.
    pub expression: String,
    /// What is said if it is false.
    pub message: String,
}

/// From claims to a user.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ClaimMappings {
    /// The name.
    pub username: Mapping,
    /// The groups.
    pub groups: Mapping,
    /// The uid.
    pub uid: Mapping,
    /// Extra fields.
    pub extra: Vec<ExtraMapping>,
}

/// A claim with a prefix, or an expression.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Mapping {
    /// A claim.
    pub claim: String,
    /// What is put before its values.
    pub prefix: Option<String>,
    /// An expression over `claims`.
    pub expression: String,
}

/// An extra field.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ExtraMapping {
    /// Its key.
    pub key: String,
    /// An expression for its values.
    pub value_expression: String,
}

/// What expressions over claims may name.
pub(super) fn claims_env() -> &'static Env {
    static ENV: OnceLock<Env> = OnceLock::new();
    ENV.get_or_init(|| Env::default().with("claims", Decl::of(Type::map(Type::String, Type::Dyn))))
}

/// What expressions over users may name.
pub(super) fn user_env() -> &'static Env {
    static ENV: OnceLock<Env> = OnceLock::new();
    ENV.get_or_init(|| {
        let user = ObjectType::new("kubernetes.UserInfo", [
            ("username", Type::String),
            ("uid", Type::String),
            ("groups", Type::list(Type::String)),
            ("extra", Type::map(Type::String, Type::list(Type::String))),
        ]);
        Env::default().with("user", Decl::of(Type::Object(user)))
    })
}

fn compiled(expression: &str, env: &Env, truth: bool, field: String, out: &mut Vec<FieldError>) -> Option<Program> {
    let why = match Program::compile(expression, env) {
        Ok(p) if truth && !(p.result == Type::Bool || p.result.is_dyn()) => "must evaluate to bool".to_owned(),
        Ok(p) => return Some(p),
        Err(e) => format!("compilation failed: {e}"),
    };
    out.push(FieldError::invalid(field, expression, why));
    None
}

fn url(text: &str, field: &str, out: &mut Vec<FieldError>) {
    let (before, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (before, query) = before.split_once('?').unwrap_or((before, ""));
    let (scheme, rest) = before.split_once("://").unwrap_or(("", before));
    let mut bad = |is: bool, why: &str| {
        if is {
            out.push(FieldError::invalid(field, text, why));
        }
    };
    bad(scheme != "https", "URL scheme must be https");
    bad(rest.split('/').next().unwrap_or("").contains('@'), "URL must not contain a username or password");
    bad(!query.is_empty(), "URL must not contain a query");
    bad(!fragment.is_empty(), "URL must not contain a fragment");
}

fn issuer(i: &Issuer, own: &str, path: &str, out: &mut Vec<FieldError>) {
    let field = |f: &str| format!("{path}.{f}");
    if i.url.is_empty() {
        out.push(FieldError::required(field("url"), ""));
    } else {
        if i.url == own {
            out.push(FieldError::invalid(field("url"), i.url.as_str(), format!("URL must not overlap with disallowed issuers: [{own}]")));
        }
        url(&i.url, &field("url"), out);
    }
    if !i.discovery_url.is_empty() {
        if i.url.trim_end_matches('/') == i.discovery_url.trim_end_matches('/') {
            out.push(FieldError::invalid(field("discoveryURL"), i.discovery_url.as_str(), "discoveryURL must be different from URL"));
        }
        url(&i.discovery_url, &field("discoveryURL"), out);
    }
    if i.audiences.is_empty() {
        out.push(FieldError::required(field("audiences"), format!("at least one {} is required", field("audiences"))));
    }
    for (n, a) in i.audiences.iter().enumerate() {
        let at = format!("{}[{n}]", field("audiences"));
        if a.is_empty() {
            out.push(FieldError::required(at.clone(), ""));
        }
        if i.audiences.iter().take(n).any(|o| o == a) {
            out.push(FieldError::duplicate(at, a.as_str()));
        }
    }
    let policy = i.audience_match_policy.as_str();
    if i.audiences.len() > 1 && policy != "MatchAny" {
        out.push(FieldError::invalid(field("audienceMatchPolicy"), policy, "audienceMatchPolicy must be MatchAny for multiple audiences"));
    }
    if i.audiences.len() == 1 && !matches!(policy, "" | "MatchAny") {
        out.push(FieldError::invalid(field("audienceMatchPolicy"), policy, "audienceMatchPolicy must be empty or MatchAny for single audience"));
    }
    if !matches!(i.egress_selector_type.as_str(), "" | "controlplane" | "cluster") {
        out.push(FieldError::invalid(field("egressSelectorType"), i.egress_selector_type.as_str(), "egress selector must be either controlplane or cluster"));
    }
}

/// The expressions of an authenticator, compiled.
#[derive(Debug, Default)]
pub(super) struct Programs {
    pub username: Option<Program>,
    pub groups: Option<Program>,
    pub uid: Option<Program>,
    pub extra: Vec<(String, Program)>,
    pub claims: Vec<(String, String, Program)>,
    pub user: Vec<(String, String, Program)>,
}

fn mapping(m: &Mapping, required: bool, path: &str, out: &mut Vec<FieldError>) -> Option<Program> {
    match (m.claim.is_empty(), m.expression.is_empty()) {
        (false, false) => out.push(FieldError::invalid(path, "", "claim and expression can't both be set")),
        (true, true) if required => out.push(FieldError::required(path, "claim or expression is required")),
        (true, false) => {
            if let Some(p) = &m.prefix {
                out.push(FieldError::invalid(format!("{path}.prefix"), p.as_str(), "may not be specified when expression is set"));
            }
            return compiled(&m.expression, claims_env(), false, format!("{path}.expression"), out);
        }
        (false, true) if m.prefix.is_none() => {
            out.push(FieldError::required(format!("{path}.prefix"), "prefix is required when claim is set. It can be set to an empty string to disable prefixing"));
        }
        _ => {}
    }
    None
}

fn extra_key(key: &str, field: &str, out: &mut Vec<FieldError>) {
    let mut bad = |why: &str| out.push(FieldError::invalid(field, key, why));
    let Some((domain, rest)) = key.split_once('/').filter(|(d, r)| !d.is_empty() && !r.is_empty()) else {
        return bad("must be a domain-prefixed path (such as \"acme.io/foo\")");
    };
    let _ = rest;
    for why in knarr_registry::names::subdomain(domain) {
        bad(&why);
    }
    if key != key.to_lowercase() {
        bad("must be lowercase");
    }
    if ["kubernetes.io", "k8s.io"].iter().any(|d| domain == *d || domain.ends_with(&format!(".{d}"))) {
        bad("k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use");
    }
}

fn rules(j: &JwtAuthenticator, path: &str, programs: &mut Programs, out: &mut Vec<FieldError>) {
    for (n, r) in j.claim_validation_rules.iter().enumerate() {
        let at = format!("{path}.claimValidationRules[{n}]");
        let before = || j.claim_validation_rules.iter().take(n);
        match (r.claim.is_empty(), r.expression.is_empty()) {
            (false, false) => out.push(FieldError::invalid(at, r.claim.as_str(), "claim and expression can't both be set")),
            (true, true) => out.push(FieldError::required(at, "claim or expression is required")),
            (false, true) => {
                if !r.message.is_empty() {
                    out.push(FieldError::invalid(format!("{at}.message"), r.message.as_str(), "may not be specified when claim is set"));
                }
                if before().any(|o| o.claim == r.claim) {
                    out.push(FieldError::duplicate(format!("{at}.claim"), r.claim.as_str()));
                }
            }
            (true, false) => {
                if !r.required_value.is_empty() {
                    out.push(FieldError::invalid(format!("{at}.requiredValue"), r.required_value.as_str(), "may not be specified when expression is set"));
                }
                if before().any(|o| o.expression == r.expression) {
                    out.push(FieldError::duplicate(format!("{at}.expression"), r.expression.as_str()));
                } else if let Some(p) = compiled(&r.expression, claims_env(), true, format!("{at}.expression"), out) {
                    programs.claims.push((r.expression.clone(), r.message.clone(), p));
                }
            }
        }
    }
    for (n, r) in j.user_validation_rules.iter().enumerate() {
        let at = format!("{path}.userValidationRules[{n}].expression");
        if r.expression.is_empty() {
            out.push(FieldError::required(at, ""));
        } else if j.user_validation_rules.iter().take(n).any(|o| o.expression == r.expression) {
            out.push(FieldError::duplicate(at, r.expression.as_str()));
        } else if let Some(p) = compiled(&r.expression, user_env(), true, at, out) {
            programs.user.push((r.expression.clone(), r.message.clone(), p));
        }
    }
}

fn authenticator(j: &JwtAuthenticator, own: &str, path: &str, out: &mut Vec<FieldError>) -> Programs {
    let mut programs = Programs::default();
    issuer(&j.issuer, own, &format!("{path}.issuer"), out);
    rules(j, path, &mut programs, out);
    let m = &j.claim_mappings;
    let at = format!("{path}.claimMappings");
    programs.username = mapping(&m.username, true, &format!("{at}.username"), out);
    programs.groups = mapping(&m.groups, false, &format!("{at}.groups"), out);
    if !m.uid.claim.is_empty() && !m.uid.expression.is_empty() {
        out.push(FieldError::invalid(format!("{at}.uid"), "", "claim and expression can't both be set"));
    } else if !m.uid.expression.is_empty() {
        programs.uid = compiled(&m.uid.expression, claims_env(), false, format!("{at}.uid.expression"), out);
    }
    for (n, e) in m.extra.iter().enumerate() {
        let at = format!("{at}.extra[{n}]");
        extra_key(&e.key, &format!("{at}.key"), out);
        if m.extra.iter().take(n).any(|o| o.key == e.key) {
            out.push(FieldError::duplicate(format!("{at}.key"), e.key.as_str()));
        } else if e.value_expression.is_empty() {
            out.push(FieldError::required(format!("{at}.valueExpression"), ""));
        } else if let Some(p) = compiled(&e.value_expression, claims_env(), false, format!("{at}.valueExpression"), out) {
            programs.extra.push((e.key.clone(), p));
        }
    }
    let email = programs.username.as_ref().is_some_and(|p| p.takes("claims", "email"));
    let others = programs.extra.iter().map(|(_, p)| p).chain(programs.claims.iter().map(|(.., p)| p));
    if email && !programs.username.iter().chain(others).any(|p| p.takes("claims", "email_verified")) {
        out.push(FieldError::invalid(format!("{at}.username.expression"), m.username.expression.as_str(),
            "claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression"));
    }
    programs
}

impl AuthenticationConfiguration {
    /// Reads a file, YAML or JSON.
    ///
    /// # Errors
    /// What cannot be read.
    pub fn parse(text: &str) -> Result<Self, String> {
        let v = knarr_schema::yaml::parse(text.as_bytes()).map_err(|e| e.to_string())?;
        let c: Self = serde_json::from_value(v).map_err(|e| e.to_string())?;
        let known = matches!(c.api_version.as_str(), "apiserver.config.k8s.io/v1" | "apiserver.config.k8s.io/v1beta1" | "apiserver.config.k8s.io/v1alpha1");
        if !known || c.kind != "AuthenticationConfiguration" {
            return Err(format!("expected AuthenticationConfiguration, got {:?} of {:?}", c.kind, c.api_version));
        }
        Ok(c)
    }

    /// Checks everything and compiles its expressions; `own` is the issuer of service-account
    /// tokens, which nobody else may be.
    pub(super) fn compile(&self, own: &str) -> Result<Vec<Programs>, String> {
        let mut out = Vec::new();
        let mut all = Vec::new();
        for (n, j) in self.jwt.iter().enumerate() {
            let path = format!("jwt[{n}]");
            all.push(authenticator(j, own, &path, &mut out));
            let before = || self.jwt.iter().take(n);
            if before().any(|o| o.issuer.url == j.issuer.url) {
                out.push(FieldError::duplicate(format!("{path}.issuer.url"), j.issuer.url.as_str()));
            }
            if !j.issuer.discovery_url.is_empty() && before().any(|o| o.issuer.discovery_url == j.issuer.discovery_url) {
                out.push(FieldError::duplicate(format!("{path}.issuer.discoveryURL"), j.issuer.discovery_url.as_str()));
            }
        }
        if self.anonymous.as_ref().is_some_and(|a| !a.enabled && !a.conditions.is_empty()) {
            out.push(FieldError::forbidden("anonymous.conditions", "enabled should be set to true when conditions are defined"));
        }
        if out.is_empty() {
            return Ok(all);
        }
        let texts: Vec<String> = out.iter().map(|e| format!("{}: {}", e.field, e.body())).collect();
        Err(if texts.len() == 1 { texts.concat() } else { format!("[{}]", texts.join(", ")) })
    }
}
