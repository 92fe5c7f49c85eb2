//! Certificate signing requests: approved where they are a kubelet's own, signed, cleaned away.

mod rules;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition,
};
use k8s_openapi::api::core::v1::Node;
use knarr_runner::meta::{self, Key};
use knarr_runner::{Action, Cache, Controller, Event, Informers, Plan, Queue};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

const YEAR: i64 = 365 * 24 * 3600;
const SHORTEST: i64 = 600;
/// How long approved and denied requests are kept, and waiting ones, in seconds.
const KEPT: f64 = 3600.0;
const WAITS: f64 = 24.0 * 3600.0;

/// What a request asks to be certified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// CN.
    pub common_name: String,
    /// O, each.
    pub organizations: Vec<String>,
    /// DNS names.
    pub dns_names: Vec<String>,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// How many names of other kinds.
    pub other_names: usize,
}

/// An authority that can sign.
pub trait CertificateSigner: Send + Sync + 'static {
    /// Reads a PEM request.
    ///
    /// # Errors
    /// What is wrong with it.
    fn read(&self, request: &str) -> Result<Subject, String>;
    /// A PEM certificate for a PEM request with these usages for so many seconds.
    ///
    /// # Errors
    /// Why it cannot be.
    fn sign(&self, request: &str, usages: &[String], seconds: i64) -> Result<String, String>;
}

/// The controller of certificate signing requests.
pub struct Certificates {
    requests: Arc<Cache<CertificateSigningRequest>>,
    nodes: Arc<Cache<Node>>,
    signer: Option<Arc<dyn CertificateSigner>>,
    approve_serving: bool,
}

impl Certificates {
    /// A controller over these informers.
    pub fn new(
        i: &Informers,
        signer: Option<Arc<dyn CertificateSigner>>,
        approve_serving: bool,
    ) -> Self {
        Self { requests: i.get(), nodes: i.get(), signer, approve_serving }
    }
}

fn addresses(n: &Node) -> impl Iterator<Item = &str> {
    let all = n.status.as_ref().and_then(|s| s.addresses.as_ref());
    all.into_iter().flatten().map(|a| a.address.as_str())
}

/// Whether a kubelet's request for a certificate to serve with names its node and the addresses
/// that this node says it has and no other does, and nothing else.
fn serves_itself(r: &CertificateSigningRequest, s: &Subject, nodes: &[Arc<Node>]) -> bool {
    let Some(name) = s.common_name.strip_prefix("system:node:") else { return false };
    if r.spec.username.as_ref() != Some(&s.common_name) {
        return false;
    }
    let (own, others): (Vec<_>, Vec<_>) = nodes.iter().partition(|n| meta::name(&n.metadata) == name);
    let Some(own) = own.first() else { return false };
    let names = s.dns_names.iter().cloned().chain(s.addresses.iter().map(IpAddr::to_string));
    names.into_iter().all(|wanted| {
        (wanted == name || addresses(own).any(|a| a == wanted))
            && !others.iter().any(|n| addresses(n).any(|a| a == wanted))
    })
}

fn condition<'a>(
    r: &'a CertificateSigningRequest,
    kind: &str,
) -> Option<&'a CertificateSigningRequestCondition> {
    r.status
        .as_ref()?
        .conditions
        .as_ref()?
        .iter()
        .find(|c| c.type_ == kind)
}

fn new_condition(
    kind: &str,
    reason: &str,
    text: &str,
    now: Timestamp,
) -> CertificateSigningRequestCondition {
    CertificateSigningRequestCondition {
        type_: kind.into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(text.into()),
        last_update_time: Some(meta::time(now)),
        last_transition_time: Some(meta::time(now)),
    }
}

/// Asks whether the requester may have such a certificate without anybody's approval.
async fn may(i: &Informers, r: &CertificateSigningRequest, sub: &str) -> Result<bool, kube::Error> {
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: r.spec.username.clone(),
            uid: r.spec.uid.clone(),
            groups: r.spec.groups.clone(),
            extra: r.spec.extra.clone(),
            resource_attributes: Some(ResourceAttributes {
                group: Some("certificates.k8s.io".into()),
                resource: Some("certificatesigningrequests".into()),
                subresource: Some(sub.into()),
                verb: Some("create".into()),
                version: Some("*".into()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let answer = i.create(&review).await?;
    Ok(answer.status.as_ref().is_some_and(|s| s.allowed))
}

fn approve(r: &Arc<CertificateSigningRequest>, own: bool) -> Action {
    let r = r.clone();
    Action::call(
        format!("approve {}", meta::name(&r.metadata)),
        move |i| async move {
            let own_text =
                "Auto approving self kubelet client certificate after SubjectAccessReview.";
            let text = "Auto approving kubelet client certificate after SubjectAccessReview.";
            let text = if own && may(&i, &r, "selfnodeclient").await? {
                own_text
            } else if may(&i, &r, "nodeclient").await? {
                text
            } else {
                return Ok(());
            };
            let mut next = r.as_ref().clone();
            let c = new_condition("Approved", "AutoApproved", text, meta::now());
            next.status
                .get_or_insert_default()
                .conditions
                .get_or_insert_default()
                .push(c);
            i.update_subresource(&next, "approval").await.map(drop)
        },
    )
}

impl Certificates {
    fn sign(&self, r: &Arc<CertificateSigningRequest>, now: Timestamp) -> Option<Action> {
        let signer = self.signer.as_ref()?;
        if !rules::ours(&r.spec.signer_name) {
            return None;
        }
        let mut next = r.as_ref().clone();
        let usages = r.spec.usages.clone().unwrap_or_default();
        let pem = String::from_utf8_lossy(&r.spec.request.0).into_owned();
        let checked = signer
            .read(&pem)
            .and_then(|s| rules::check(&r.spec.signer_name, &s, &usages).map_err(str::to_owned));
        let seconds = r
            .spec
            .expiration_seconds
            .map_or(YEAR, i64::from)
            .clamp(SHORTEST, YEAR);
        let st = next.status.get_or_insert_default();
        match checked.and_then(|()| signer.sign(&pem, &usages, seconds)) {
            Ok(certificate) => st.certificate = Some(ByteString(certificate.into_bytes())),
            Err(e) => {
                let c = new_condition("Failed", "SignerValidationFailure", &e, now);
                st.conditions.get_or_insert_default().push(c);
            }
        }
        Some(Action::update_status(next))
    }
}

/// In how many seconds a request may be cleaned away, and whether that is for good.
fn left(r: &CertificateSigningRequest, now: Timestamp) -> f64 {
    let age = |t: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| {
        t.map_or(0.0, |t| meta::seconds_between(t.0, now))
    };
    let done = condition(r, "Denied")
        .or_else(|| condition(r, "Failed"))
        .or_else(|| {
            let issued = r.status.as_ref().is_some_and(|s| s.certificate.is_some());
            condition(r, "Approved").filter(|_| issued)
        });
    match done {
        Some(c) => KEPT - age(c.last_update_time.as_ref()),
        None => WAITS - age(r.metadata.creation_timestamp.as_ref()),
    }
}

impl Controller for Certificates {
    fn name(&self) -> &'static str {
        "certificatesigningrequest-controller"
    }
    fn watch(&self, _: &Informers, queue: &Queue<Key>) {
        let q = queue.clone();
        self.requests.on_event(move |e| {
            if !matches!(e, Event::Deleted(_)) {
                q.add(Key::of(&e.object().metadata));
            }
        });
        // A node that tells its addresses may be waiting for a certificate.
        let (q, requests) = (queue.clone(), self.requests.clone());
        self.nodes.on_event(move |e| {
            let told = match e {
                Event::Added(_) => true,
                Event::Updated { old, new } => !addresses(old).eq(addresses(new)),
                Event::Deleted(_) => false,
            };
            let waiting = |r: &&Arc<CertificateSigningRequest>| r.spec.signer_name == rules::KUBELET_SERVING;
            for r in requests.list().iter().filter(|_| told).filter(waiting) {
                q.add(Key::of(&r.metadata));
            }
        });
    }
    fn synced(&self) -> bool {
        self.requests.has_synced() && self.nodes.has_synced()
    }
    fn plan(&self, key: &Key, now: Timestamp) -> Plan {
        let Some(r) = self.requests.by_key(key) else {
            return Plan::none();
        };
        let left = left(&r, now);
        if left <= 0.0 {
            return Plan::one(Action::delete(r.as_ref(), None, None));
        }
        let mut plan = Plan::none();
        plan.after(Duration::from_secs_f64(left + 0.1));
        let ended = ["Denied", "Failed"]
            .iter()
            .any(|k| condition(&r, k).is_some())
            || r.status.as_ref().is_some_and(|s| s.certificate.is_some());
        if ended {
            return plan;
        }
        if condition(&r, "Approved").is_some() {
            plan.steps
                .extend(self.sign(&r, now).map(knarr_runner::Step::One));
        } else if r.spec.signer_name == rules::KUBELET_CLIENT {
            let pem = String::from_utf8_lossy(&r.spec.request.0).into_owned();
            let subject = self.signer.as_ref().and_then(|s| s.read(&pem).ok());
            let usages = r.spec.usages.as_deref().unwrap_or(&[]);
            if let Some(s) =
                subject.filter(|s| rules::check(rules::KUBELET_CLIENT, s, usages).is_ok())
            {
                let own = r.spec.username.as_ref() == Some(&s.common_name);
                plan.push(approve(&r, own));
            }
        } else if r.spec.signer_name == rules::KUBELET_SERVING && self.approve_serving {
            let pem = String::from_utf8_lossy(&r.spec.request.0).into_owned();
            let subject = self.signer.as_ref().and_then(|s| s.read(&pem).ok());
            if subject.is_some_and(|s| serves_itself(&r, &s, &self.nodes.list())) {
                let text = "Auto approving kubelet serving certificate of the node's own names.";
                let mut next = r.as_ref().clone();
                let c = new_condition("Approved", "AutoApproved", text, now);
                next.status.get_or_insert_default().conditions.get_or_insert_default().push(c);
                plan.push(Action::call("approve a serving certificate", move |i| async move {
                    i.update_subresource(&next, "approval").await.map(drop)
                }));
            }
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{NodeAddress, NodeStatus};

    #[test]
    fn a_node_serves_under_its_own_names_only() {
        let node = |name: &str, address: &str| {
            let mut n = Node::default();
            n.metadata.name = Some(name.into());
            let address = NodeAddress { type_: "InternalIP".into(), address: address.into() };
            n.status = Some(NodeStatus { addresses: Some(vec![address]), ..NodeStatus::default() });
            Arc::new(n)
        };
        let nodes = [node("n1", "10.0.0.1"), node("n2", "10.0.0.2")];
        let subject = |names: &[&str], addresses: &[&str]| Subject {
            common_name: "system:node:n2".into(),
            dns_names: names.iter().map(|&n| n.to_owned()).collect(),
            addresses: addresses.iter().map(|a| a.parse().expect("an address")).collect(),
            ..Subject::default()
        };
        let mut r = CertificateSigningRequest::default();
        r.spec.username = Some("system:node:n2".into());
        assert!(serves_itself(&r, &subject(&["n2"], &["10.0.0.2"]), &nodes));
        assert!(!serves_itself(&r, &subject(&["n1"], &["10.0.0.2"]), &nodes));
        assert!(!serves_itself(&r, &subject(&[], &["10.0.0.1"]), &nodes));
        assert!(!serves_itself(&r, &subject(&[], &["10.96.0.1"]), &nodes));
        assert!(!serves_itself(&r, &subject(&["n2"], &["10.0.0.2"]), &nodes[..1]));
        r.spec.username = Some("system:node:n1".into());
        assert!(!serves_itself(&r, &subject(&["n2"], &["10.0.0.2"]), &nodes));
    }
}
