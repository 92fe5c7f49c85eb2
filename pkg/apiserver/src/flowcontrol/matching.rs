//! Which flow schema a request belongs to.

use knarr_registry::Object;
use serde_json::Value;

use crate::{auth::UserInfo, request::Info};

/// What a rule names: everything, or these.
#[derive(Debug)]
enum Names {
    All,
    These(Vec<String>),
}

impl Names {
    fn of(v: &Value, member: &str) -> Self {
        let all: Vec<String> = v.list_at(&[member]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        if matches!(all.as_slice(), [one] if one == "*") { Self::All } else { Self::These(all) }
    }
    fn has(&self, is: impl Fn(&str) -> bool) -> bool {
        match self {
            Self::All => true,
            Self::These(all) => all.iter().any(|n| is(n)),
        }
    }
}

#[derive(Debug)]
enum Subject {
    /// Of this name.
    User(String),
    /// Of this group.
    Group(String),
    /// Of this name in this namespace, or all of them.
    Account { namespace: String, name: Option<String> },
    /// Anybody.
    Anybody,
}

impl Subject {
    fn of(v: &Value) -> Option<Self> {
        let name = |of: &str| v.at(&[of]).map(|_| v.str_at(&[of, "name"]).to_owned());
        Some(match v.str_at(&["kind"]) {
            "User" => name("user").map(|n| if n == "*" { Self::Anybody } else { Self::User(n) })?,
            "Group" => name("group").map(|n| if n == "*" { Self::Anybody } else { Self::Group(n) })?,
            "ServiceAccount" => {
                let name = name("serviceAccount")?;
                let namespace = v.str_at(&["serviceAccount", "namespace"]).to_owned();
                Self::Account { namespace, name: (name != "*").then_some(name) }
            }
            _ => return None,
        })
    }
    fn is(&self, user: &UserInfo) -> bool {
        match self {
            Self::Anybody => true,
            Self::User(n) => user.name == *n,
            Self::Group(g) => user.is_in(g),
            Self::Account { namespace, name } => {
                let rest = user.name.strip_prefix("system:serviceaccount:").and_then(|r| r.strip_prefix(namespace.as_str()));
                let own = rest.and_then(|r| r.strip_prefix(':'));
                own.is_some_and(|own| name.as_ref().is_none_or(|n| n == own))
            }
        }
    }
}

#[derive(Debug)]
struct ResourceRule {
    verbs: Names,
    groups: Names,
    resources: Names,
    cluster: bool,
    namespaces: Names,
}

/// Whether `name` is `resource/sub`, or `resource` where there is no `sub`.
fn names(name: &str, resource: &str, sub: &str) -> bool {
    match name.strip_prefix(resource) {
        Some("") => sub.is_empty(),
        Some(rest) => !sub.is_empty() && rest.strip_prefix('/') == Some(sub),
        None => false,
    }
}

impl ResourceRule {
    fn has(&self, i: &Info) -> bool {
        self.verbs.has(|v| v == i.verb)
            && self.groups.has(|g| g == i.group)
            && self.resources.has(|r| names(r, &i.resource, &i.subresource))
            && if i.namespace.is_empty() { self.cluster } else { self.namespaces.has(|n| n == i.namespace) }
    }
}

#[derive(Debug)]
struct PathRule {
    verbs: Names,
    paths: Vec<String>,
}

impl PathRule {
    fn has(&self, i: &Info) -> bool {
        let under = |p: &str| {
            let base = p.strip_suffix('*').unwrap_or(p);
            match i.path.strip_prefix(base) {
                Some(rest) => base.ends_with('/') || rest.starts_with('/'),
                None => false,
            }
        };
        self.verbs.has(|v| v == i.verb) && self.paths.iter().any(|p| p == "*" || *p == i.path || under(p))
    }
}

#[derive(Debug)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    paths: Vec<PathRule>,
}

/// The rules of a flow schema.
#[derive(Debug)]
pub struct Rules(Vec<Rule>);

impl Rules {
    /// Reads them from the schema's `spec`.
    #[must_use]
    pub fn of(spec: &Value) -> Self {
        let resource = |r: &Value| ResourceRule {
            verbs: Names::of(r, "verbs"),
            groups: Names::of(r, "apiGroups"),
            resources: Names::of(r, "resources"),
            cluster: r["clusterScope"] == true,
            namespaces: Names::of(r, "namespaces"),
        };
        let path = |r: &Value| PathRule {
            verbs: Names::of(r, "verbs"),
            paths: r.list_at(&["nonResourceURLs"]).iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        };
        let rule = |r: &Value| Rule {
            subjects: r.list_at(&["subjects"]).iter().filter_map(Subject::of).collect(),
            resources: r.list_at(&["resourceRules"]).iter().map(resource).collect(),
            paths: r.list_at(&["nonResourceRules"]).iter().map(path).collect(),
        };
        Self(spec.list_at(&["rules"]).iter().map(rule).collect())
    }

    /// Whether a request of this user is meant.
    #[must_use]
    pub fn match_(&self, user: &UserInfo, info: &Info) -> bool {
        self.0.iter().any(|r| {
            r.subjects.iter().any(|s| s.is(user))
                && if info.resource_request { r.resources.iter().any(|x| x.has(info)) } else { r.paths.iter().any(|x| x.has(info)) }
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::request::Query;

    fn info(path: &str) -> Info {
        Info::parse(&http::Method::GET, path, &Query::default())
    }

    fn rules(subject: Value, more: Value) -> Rules {
        let mut rule = json!({"subjects": [subject]});
        for (k, v) in more.as_object().into_iter().flatten() {
            rule[k] = v.clone();
        }
        Rules::of(&json!({"rules": [rule]}))
    }

    #[test]
    fn subjects_are_users_groups_and_accounts() {
        let all = json!({"nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]});
        let matches = |subject: Value, user: &UserInfo| rules(subject, all.clone()).match_(user, &info("/healthz"));
        let alice = UserInfo::new("alice", ["dev"]);
        let robot = UserInfo::new("system:serviceaccount:ns:robot", ["system:serviceaccounts"]);
        assert!(matches(json!({"kind": "User", "user": {"name": "alice"}}), &alice));
        assert!(!matches(json!({"kind": "User", "user": {"name": "ali"}}), &alice));
        assert!(matches(json!({"kind": "User", "user": {"name": "*"}}), &alice));
        assert!(matches(json!({"kind": "Group", "group": {"name": "dev"}}), &alice));
        assert!(matches(json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "ns", "name": "*"}}), &robot));
        assert!(matches(json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "ns", "name": "robot"}}), &robot));
        assert!(!matches(json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "n", "name": "*"}}), &robot));
        assert!(!matches(json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "ns", "name": "rob"}}), &robot));
    }

    #[test]
    fn resources_are_matched_with_their_scope() {
        let anybody = json!({"kind": "User", "user": {"name": "*"}});
        let rule = |more: Value| {
            let mut r = json!({"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "nodes/status"]});
            for (k, v) in more.as_object().into_iter().flatten() {
                r[k] = v.clone();
            }
            rules(anybody.clone(), json!({"resourceRules": [r]}))
        };
        let u = UserInfo::new("u", [""; 0]);
        let everywhere = rule(json!({"clusterScope": true, "namespaces": ["*"]}));
        assert!(everywhere.match_(&u, &info("/api/v1/namespaces/a/pods/x")));
        assert!(everywhere.match_(&u, &info("/api/v1/pods")));
        assert!(everywhere.match_(&u, &info("/api/v1/nodes/n/status")));
        assert!(!everywhere.match_(&u, &info("/api/v1/nodes/n")));
        assert!(!everywhere.match_(&u, &info("/api/v1/namespaces/a/pods/x/log")));
        assert!(!everywhere.match_(&u, &info("/apis/apps/v1/pods")));
        assert!(!everywhere.match_(&u, &info("/healthz")));
        let some = rule(json!({"namespaces": ["a"]}));
        assert!(some.match_(&u, &info("/api/v1/namespaces/a/pods/x")));
        assert!(!some.match_(&u, &info("/api/v1/namespaces/b/pods/x")));
        assert!(!some.match_(&u, &info("/api/v1/pods")));
    }

    #[test]
    fn paths_are_matched_with_what_is_below() {
        let paths = |p: &str| rules(json!({"kind": "User", "user": {"name": "*"}}), json!({"nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": [p]}]}));
        let u = UserInfo::new("u", [""; 0]);
        assert!(paths("/healthz").match_(&u, &info("/healthz")));
        assert!(paths("/healthz").match_(&u, &info("/healthz/etcd")));
        assert!(paths("/healthz/*").match_(&u, &info("/healthz/etcd")));
        assert!(!paths("/healthz").match_(&u, &info("/healthzz")));
        assert!(!paths("/livez").match_(&u, &info("/healthz")));
    }
}
