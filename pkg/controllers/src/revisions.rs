//! ControllerRevisions: the history of a template.

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use knarr_runner::meta::{self, Labels};
use knarr_runner::{Action, Cache, Kind};
use std::sync::Arc;

/// The revisions of an owner, oldest first.
pub fn of(cache: &Cache<ControllerRevision>, owner_uid: &str) -> Vec<Arc<ControllerRevision>> {
    let mut v = cache.owned_by(owner_uid);
    v.sort_by_key(|r| (r.revision, meta::name(&r.metadata).to_owned()));
    v
}

fn data(t: &PodTemplateSpec) -> serde_json::Value {
    let mut t = serde_json::to_value(t).unwrap_or_default();
    if let Some(o) = t.as_object_mut() {
        o.insert("$patch".into(), "replace".into());
    }
    serde_json::json!({"spec": {"template": t}})
}

fn same(r: &ControllerRevision, want: &serde_json::Value) -> bool {
    let normal = |v: &serde_json::Value| {
        serde_json::from_value::<PodTemplateSpec>(v["spec"]["template"].clone()).ok()
    };
    normal(&r.data.0) == normal(want)
}

/// What must be done first, or the revision of the template.
pub enum Current {
    /// Write this, then plan again.
    Write(Action),
    /// It exists and is the newest.
    Is(Arc<ControllerRevision>),
}

/// The revision of the present template; made, or made the newest again, where needed.
pub fn current<K: Kind>(
    owner: &Arc<K>,
    template: &PodTemplateSpec,
    labels: Option<&Labels>,
    collisions: Option<i32>,
    history: &[Arc<ControllerRevision>],
) -> Current {
    let want = data(template);
    let newest = history.last().map_or(0, |r| r.revision.unwrap_or(0));
    if let Some(r) = history.iter().rev().find(|r| same(r, &want)) {
        if r.revision.unwrap_or(0) == newest {
            return Current::Is(r.clone());
        }
        let mut next = r.as_ref().clone();
        next.revision = Some(newest + 1);
        return Current::Write(Action::update(next));
    }
    let hash = meta::template_hash(&want, collisions);
    let mut labels = labels.cloned().unwrap_or_default();
    labels.insert("controller-revision-hash".into(), hash.clone());
    Current::Write(Action::create(ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", meta::name(owner.meta()))),
            namespace: owner.meta().namespace.clone(),
            labels: Some(labels),
            annotations: owner.meta().annotations.clone().map(|mut a| {
                a.remove("kubectl.kubernetes.io/last-applied-configuration");
                a
            }),
            owner_references: Some(vec![meta::owner_ref(owner.as_ref())]),
            ..ObjectMeta::default()
        },
        data: RawExtension(want),
        revision: Some(newest + 1),
    }))
}

/// The hash label of a revision.
pub fn hash(r: &ControllerRevision) -> &str {
    meta::label(&r.metadata, "controller-revision-hash").unwrap_or("")
}

/// Old revisions beyond the limit that no pod uses.
pub fn surplus(
    history: &[Arc<ControllerRevision>],
    limit: i32,
    live: impl Fn(&ControllerRevision) -> bool,
) -> Vec<Action> {
    let dead: Vec<_> = history.iter().filter(|r| !live(r)).collect();
    let n = dead.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    dead.into_iter().take(n).map(|r| Action::delete(r.as_ref(), None, None)).collect()
}

/// The template as it was at a revision.
pub fn template_at(r: &ControllerRevision) -> Option<PodTemplateSpec> {
    serde_json::from_value(r.data.0["spec"]["template"].clone()).ok()
}
