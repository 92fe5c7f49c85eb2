//! `Impersonate-*` headers: acting as somebody else (KEP-5284 and what was before it).
//!
//! # Flow
//! A requestor may act as another user in one of several modes, which are tried in turn. Each of
//! the constrained ones asks twice: whether the requestor may do what it asks for in that mode
//! (`impersonate-on:MODE:VERB`), and whether it may be that user in it (`impersonate:MODE`). The
//! last one is `impersonate` alone, whatever is asked for.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, RandomState},
    sync::{Mutex, PoisonError},
};

use http::HeaderMap;
use knarr_registry::{ApiError, names};

use super::UserInfo;
use crate::{
    authz::{Attributes, Authorizer, denial},
    request::unescape,
};

const AUTHENTICATION: &str = "authentication.k8s.io";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
/// So many checks are first tried as one of everything.
const MANY: usize = 4;
/// Requestors whose mode is remembered.
const REMEMBERED: usize = 1024;

/// The user that headers ask to act as.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    name: String,
    uid: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

/// Reads the headers; `None` if nobody else is asked for.
///
/// # Errors
/// 400 if headers are given without a user.
pub fn wanted(headers: &HeaderMap) -> Result<Option<Wanted>, ApiError> {
    let text = |k: &str| headers.get(k).and_then(|v| v.to_str().ok()).unwrap_or("").to_owned();
    let mut w = Wanted {
        name: text("impersonate-user"),
        uid: text("impersonate-uid"),
        groups: headers.get_all("impersonate-group").iter().filter_map(|v| v.to_str().ok().map(str::to_owned)).collect(),
        extra: BTreeMap::new(),
    };
    for (k, v) in headers {
        if let Some(key) = k.as_str().strip_prefix("impersonate-extra-") {
            w.extra.entry(unescape(key, false)).or_default().push(v.to_str().unwrap_or("").to_owned());
        }
    }
    if !w.name.is_empty() {
        return Ok(Some(w));
    }
    if w.groups.is_empty() && w.uid.is_empty() && w.extra.is_empty() {
        return Ok(None);
    }
    let quoted = |all: &[String]| all.iter().map(|g| format!("{g:?}")).collect::<Vec<_>>().join(", ");
    let list = |all: &[String]| if all.is_empty() { "[]string(nil)".to_owned() } else { format!("[]string{{{}}}", quoted(all)) };
    let extra = if w.extra.is_empty() {
        "map[string][]string(nil)".to_owned()
    } else {
        let all: Vec<String> = w.extra.iter().map(|(k, v)| format!("{k:?}:{}", list(v))).collect();
        format!("map[string][]string{{{}}}", all.join(", "))
    };
    Err(ApiError::bad_request(format!(
        "requested &user.DefaultInfo{{Name:\"\", UID:{:?}, Groups:{}, Extra:{extra}}} without impersonating a user name",
        w.uid,
        list(&w.groups)
    )))
}

/// A way to act as somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// A service account acts as the node its pod is on.
    AssociatedNode,
    /// As any node.
    ArbitraryNode,
    /// As a service account.
    ServiceAccount,
    /// As anybody else.
    UserInfo,
    /// As anybody, for anything.
    Legacy,
}

const MODES: [Mode; 5] = [Mode::AssociatedNode, Mode::ArbitraryNode, Mode::ServiceAccount, Mode::UserInfo, Mode::Legacy];

fn node(name: &str) -> Option<&str> {
    name.strip_prefix("system:node:").filter(|n| !n.is_empty() && names::subdomain(n).is_empty())
}

fn account(name: &str) -> Option<(&str, &str)> {
    let (namespace, own) = name.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (names::label(namespace).is_empty() && !own.is_empty() && names::subdomain(own).is_empty()).then_some((namespace, own))
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::AssociatedNode => "associated-node",
            Self::ArbitraryNode => "arbitrary-node",
            Self::ServiceAccount => "serviceaccount",
            Self::UserInfo => "user-info",
            Self::Legacy => "",
        }
    }

    fn verb(self) -> String {
        match self {
            Self::Legacy => "impersonate".into(),
            _ => format!("impersonate:{}", self.name()),
        }
    }

    /// Whether it is for this user at all.
    fn is_for(self, w: &Wanted, requestor: &UserInfo) -> bool {
        let alone = w.uid.is_empty() && w.groups.is_empty() && w.extra.is_empty();
        match self {
            Self::AssociatedNode => {
                let own = requestor.extra.get(NODE_NAME).map(Vec::as_slice);
                alone && account(&requestor.name).is_some() && node(&w.name).is_some_and(|n| matches!(own, Some([one]) if one == n))
            }
            Self::ArbitraryNode => alone && node(&w.name).is_some(),
            Self::ServiceAccount => alone && account(&w.name).is_some(),
            Self::UserInfo => node(&w.name).is_none() && account(&w.name).is_none(),
            Self::Legacy => true,
        }
    }
}

/// One question after another for a mode.
struct Asking<'a> {
    authorizer: &'a Authorizer,
    requestor: UserInfo,
    mode: Mode,
}

impl Asking<'_> {
    fn attributes(&self, group: &str, resource: &str) -> Attributes {
        Attributes { verb: self.mode.verb(), resource_request: true, group: group.into(), version: "v1".into(), resource: resource.into(), ..Attributes::default() }
    }
    fn ask(&self, a: &Attributes) -> Result<(), ApiError> {
        self.authorizer.check(&self.requestor, a)
    }
    fn refuse(&self, a: &Attributes, why: &str) -> ApiError {
        denial(&self.requestor, a, why)
    }

    fn user(&self, w: &Wanted, user: &mut UserInfo, core: &str) -> Result<(), ApiError> {
        let mut a = self.attributes(core, "users");
        a.name.clone_from(&w.name);
        if self.mode != Mode::Legacy
            && let Some(n) = node(&w.name)
        {
            a.resource = "nodes".into();
            // That it is its own node is known already.
            a.name = if self.mode == Mode::AssociatedNode { "*".into() } else { n.into() };
            user.groups = vec!["system:nodes".into()];
        }
        if let Some((namespace, own)) = account(&w.name) {
            (a.resource, a.namespace, a.name) = ("serviceaccounts".into(), namespace.into(), own.into());
            if w.groups.is_empty() {
                user.groups = vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")];
            }
        }
        self.ask(&a)
    }

    fn groups(&self, groups: &[String], core: &str) -> Result<(), ApiError> {
        let mut a = self.attributes(core, "groups");
        if self.mode != Mode::Legacy {
            if groups.iter().any(String::is_empty) {
                return Err(self.refuse(&a, "impersonating the empty string group is not allowed"));
            }
            if groups.iter().any(|g| g == "system:masters") {
                a.name = "system:masters".into();
                return Err(self.refuse(&a, "impersonating the system:masters group is not allowed"));
            }
            a.name = "*".into();
            if groups.len() >= MANY && self.ask(&a).is_ok() {
                return Ok(());
            }
        }
        groups.iter().try_for_each(|g| {
            a.name.clone_from(g);
            self.ask(&a)
        })
    }

    fn extra(&self, extra: &BTreeMap<String, Vec<String>>) -> Result<(), ApiError> {
        let mut a = self.attributes(AUTHENTICATION, "userextras");
        if self.mode != Mode::Legacy {
            for (key, values) in extra {
                let prefixed = key.split_once('/').is_some_and(|(domain, path)| names::subdomain(domain).is_empty() && !domain.is_empty() && !path.is_empty());
                if key.is_empty() {
                    return Err(self.refuse(&a, "impersonating the empty string key in extra is not allowed"));
                }
                if !prefixed {
                    let why = format!("impersonating an invalid key in extra is not allowed: extra.key: Invalid value: {key:?}: must be a domain-prefixed path (such as \"acme.io/foo\")");
                    return Err(self.refuse(&a, &why));
                }
                if values.iter().any(String::is_empty) {
                    return Err(self.refuse(&a, "impersonating the empty string value in extra is not allowed"));
                }
            }
            (a.subresource, a.name) = ("*".into(), "*".into());
            if extra.values().map(Vec::len).sum::<usize>() >= MANY && self.ask(&a).is_ok() {
                return Ok(());
            }
        }
        for (key, values) in extra {
            a.subresource.clone_from(key);
            for v in values {
                a.name.clone_from(v);
                self.ask(&a)?;
            }
        }
        Ok(())
    }

    fn be(&self, w: &Wanted) -> Result<UserInfo, ApiError> {
        let core = if self.mode == Mode::Legacy { "" } else { AUTHENTICATION };
        let mut user = UserInfo { name: w.name.clone(), uid: w.uid.clone(), groups: w.groups.clone(), extra: w.extra.clone() };
        self.user(w, &mut user, core)?;
        if !w.uid.is_empty() {
            self.ask(&Attributes { name: w.uid.clone(), ..self.attributes(AUTHENTICATION, "uids") })?;
        }
        self.groups(&w.groups, core)?;
        self.extra(&w.extra)?;
        let all = if user.name == "system:anonymous" { "system:unauthenticated" } else { "system:authenticated" };
        if !user.is_in(all) && !user.is_in("system:unauthenticated") {
            user.groups.push(all.into());
        }
        Ok(user)
    }
}

/// Who may act as whom; remembers in which mode requestors did last.
#[derive(Default)]
pub struct Impersonation {
    hash: RandomState,
    last: Mutex<HashMap<u64, Mode>>,
}

impl Impersonation {
    /// The user that `requestor` acts as for a request, and the verb that allowed it (empty for
    /// `impersonate`).
    ///
    /// # Errors
    /// 403: what the first of the modes says.
    pub fn act(&self, authorizer: &Authorizer, requestor: &UserInfo, request: &Attributes, w: &Wanted) -> Result<(UserInfo, String), ApiError> {
        let key = self.hash.hash_one((&requestor.name, &requestor.uid, &requestor.groups));
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).get(&key).copied();
        let mut first = None;
        let others = MODES.into_iter().filter(|m| Some(*m) != last);
        for mode in last.into_iter().chain(others).filter(|m| m.is_for(w, requestor)) {
            match Self::attempt(authorizer, requestor, request, w, mode) {
                Ok(user) => {
                    let mut all = self.last.lock().unwrap_or_else(PoisonError::into_inner);
                    if all.len() >= REMEMBERED {
                        all.clear();
                    }
                    all.insert(key, mode);
                    return Ok((user, if mode == Mode::Legacy { String::new() } else { mode.verb() }));
                }
                Err(e) => first = first.or(Some(e)),
            }
        }
        Err(first.unwrap_or_else(|| ApiError::internal("all impersonation modes failed")))
    }

    fn attempt(authorizer: &Authorizer, requestor: &UserInfo, request: &Attributes, w: &Wanted, mode: Mode) -> Result<UserInfo, ApiError> {
        let mut requestor = requestor.clone();
        if mode == Mode::AssociatedNode {
            // What else is known of the pod makes no difference.
            let keys = requestor.extra.keys().cloned().collect();
            requestor.extra = [("authentication.kubernetes.io/associated-node-keys".to_owned(), keys)].into();
        }
        let asking = Asking { authorizer, requestor, mode };
        if mode != Mode::Legacy {
            asking.ask(&Attributes { verb: format!("impersonate-on:{}:{}", mode.name(), request.verb), ..request.clone() })?;
        }
        asking.be(w)
    }
}
