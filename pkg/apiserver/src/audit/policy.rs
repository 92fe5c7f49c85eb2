//! Audit policies: which requests are recorded, and how much of them.

use knarr_registry::FieldError;
use serde::Deserialize;

use crate::{auth::UserInfo, request::Info};

/// How much is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing.
    #[default]
    None,
    /// Who did what.
    Metadata,
    /// And what was sent.
    Request,
    /// And what was answered.
    RequestResponse,
}

impl Level {
    /// As policies and events write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }
}

/// `Policy` of `audit.k8s.io/v1`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AuditPolicy {
    api_version: String,
    kind: String,
    #[serde(rename = "metadata")]
    _metadata: serde_json::Value,
    rules: Vec<Rule>,
    omit_stages: Vec<String>,
    omit_managed_fields: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Rule {
    level: String,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<GroupResources>,
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    omit_stages: Vec<String>,
    omit_managed_fields: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct GroupResources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

/// What a policy says of one request.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// How much is recorded.
    pub level: Level,
    /// Stages that are not.
    pub omit: Vec<String>,
    /// Whether `managedFields` are left out of objects.
    pub omit_managed_fields: bool,
}

const STAGES: [&str; 4] = ["RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"];

fn level(text: &str) -> Option<Level> {
    [Level::None, Level::Metadata, Level::Request, Level::RequestResponse].into_iter().find(|l| l.name() == text)
}

fn has(list: &[String], v: &str) -> bool {
    list.iter().any(|x| x == v)
}

impl GroupResources {
    fn covers(&self, i: &Info) -> bool {
        if self.group != "*" && self.group != i.group {
            return false;
        }
        let full = if i.subresource.is_empty() { i.resource.clone() } else { format!("{}/{}", i.resource, i.subresource) };
        let named = self.resource_names.is_empty() || has(&self.resource_names, &i.name);
        let one = |r: &String| {
            r == "*" || *r == full || !i.subresource.is_empty() && r.strip_prefix("*/") == Some(&i.subresource) || r.strip_suffix("/*") == Some(&i.resource)
        };
        self.resources.is_empty() || named && self.resources.iter().any(one)
    }
}

impl Rule {
    fn matches(&self, user: &UserInfo, i: &Info) -> bool {
        if !self.users.is_empty() && !has(&self.users, &user.name)
            || !self.user_groups.is_empty() && !user.groups.iter().any(|g| has(&self.user_groups, g))
            || !self.verbs.is_empty() && !has(&self.verbs, &i.verb)
        {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            let here = self.namespaces.is_empty() || has(&self.namespaces, &i.namespace);
            return i.resource_request && here && (self.resources.is_empty() || self.resources.iter().any(|r| r.covers(i)));
        }
        let fits = |spec: &String| spec == "*" || *spec == i.path || spec.ends_with('*') && i.path.starts_with(spec.trim_end_matches('*'));
        self.non_resource_urls.is_empty() || !i.resource_request && self.non_resource_urls.iter().any(fits)
    }
}

fn stages(all: &[String], path: &str, out: &mut Vec<FieldError>) {
    for (n, s) in all.iter().enumerate().filter(|(_, s)| !STAGES.contains(&s.as_str())) {
        out.push(FieldError::invalid(format!("{path}[{n}]"), s.as_str(), format!("allowed stages are {}", STAGES.join(","))));
    }
}

impl AuditPolicy {
    /// Reads a policy, YAML or JSON, and checks it.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let v = knarr_schema::yaml::parse(text.as_bytes()).map_err(|e| e.to_string())?;
        let p: Self = serde_json::from_value(v).map_err(|e| e.to_string())?;
        if p.api_version != "audit.k8s.io/v1" || p.kind != "Policy" {
            return Err(format!("unknown group version field {:?} or kind {:?} in policy file", p.api_version, p.kind));
        }
        if p.rules.is_empty() {
            return Err("loaded illegal policy with 0 rules".into());
        }
        let mut out = Vec::new();
        stages(&p.omit_stages, "omitStages", &mut out);
        for (n, r) in p.rules.iter().enumerate() {
            r.check(&format!("rules[{n}]"), &mut out);
        }
        let texts: Vec<String> = out.iter().map(|e| format!("{}: {}", e.field, e.body())).collect();
        match texts.len() {
            0 => Ok(p),
            1 => Err(texts.concat()),
            _ => Err(format!("[{}]", texts.join(", "))),
        }
    }

    /// What is to be recorded of a request: the first rule that matches decides.
    #[must_use]
    pub fn verdict(&self, user: &UserInfo, i: &Info) -> Verdict {
        let Some(r) = self.rules.iter().find(|r| r.matches(user, i)) else { return Verdict::default() };
        Verdict {
            level: level(&r.level).unwrap_or_default(),
            omit: self.omit_stages.iter().chain(&r.omit_stages).cloned().collect(),
            omit_managed_fields: r.omit_managed_fields.unwrap_or(self.omit_managed_fields),
        }
    }
}

impl Rule {
    fn check(&self, path: &str, out: &mut Vec<FieldError>) {
        if self.level.is_empty() {
            out.push(FieldError::required(format!("{path}.level"), ""));
        } else if level(&self.level).is_none() {
            out.push(FieldError::not_supported(format!("{path}.level"), self.level.as_str(), &["None", "Metadata", "Request", "RequestResponse"]));
        }
        for (n, u) in self.non_resource_urls.iter().enumerate().filter(|(_, u)| *u != "*") {
            let mut bad = |why: &str| out.push(FieldError::invalid(format!("{path}.nonResourceURLs[{n}]"), u.as_str(), why));
            if !u.starts_with('/') {
                bad("non-resource URL rules must begin with a '/' character");
            }
            if u.strip_suffix('*').unwrap_or(u).contains('*') {
                bad("non-resource URL wildcards '*' must be the final character of the rule");
            }
        }
        for g in &self.resources {
            if !g.group.is_empty() && g.group != "*" {
                let wrong = knarr_registry::names::subdomain(&g.group);
                if !wrong.is_empty() {
                    out.push(FieldError::invalid(format!("{path}.resources.group"), g.group.as_str(), wrong.join(",")));
                }
            }
            if !g.resource_names.is_empty() && g.resources.is_empty() {
                out.push(FieldError::invalid(format!("{path}.resources.resourceNames"), serde_json::json!(g.resource_names), "using resourceNames requires at least one resource"));
            }
        }
        stages(&self.omit_stages, &format!("{path}.omitStages"), out);
        let of_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
        if of_resources && !self.non_resource_urls.is_empty() {
            out.push(FieldError::invalid(format!("{path}.nonResourceURLs"), serde_json::json!(self.non_resource_urls), "rules cannot apply to both regular resources and non-resource URLs"));
        }
    }
}
