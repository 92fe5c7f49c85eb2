//! The resources that are served: one row each, parsed from `api/resources.tsv`.

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt,
    sync::{Arc, OnceLock},
};

use crate::types::{Type, types};

pub(crate) static TABLE: &str = include_str!("../../../api/resources.tsv");

/// Text that is borrowed from the table or owned by a run-time row.
pub type Text = Cow<'static, str>;

/// A group and a version of it. The legacy group is the empty string.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupVersion {
    /// The group's name; empty for `v1`.
    pub group: Text,
    /// The version.
    pub version: Text,
}

impl GroupVersion {
    /// A group and version from their parts.
    pub fn new(group: impl Into<Text>, version: impl Into<Text>) -> Self {
        Self { group: group.into(), version: version.into() }
    }

    /// Parses an `apiVersion` such as `v1` or `apps/v1`.
    pub fn parse(api_version: &str) -> Self {
        match api_version.split_once('/') {
            Some((group, version)) => Self::new(group.to_owned(), version.to_owned()),
            None => Self::new("", api_version.to_owned()),
        }
    }
}

impl fmt::Display for GroupVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() { f.write_str(&self.version) } else { write!(f, "{}/{}", self.group, self.version) }
    }
}

/// One subresource of a resource.
#[derive(Clone, Debug)]
pub struct Subresource {
    /// The last path segment, e.g. `status`.
    pub name: Text,
    /// The body's group and version, where they are not the resource's own.
    pub group_version: Option<GroupVersion>,
    /// The body's kind.
    pub kind: Text,
    /// The verbs, sorted.
    pub verbs: Vec<Text>,
}

/// One served resource: a row of the table, or one made at run time for a custom resource.
#[derive(Clone, Debug, Default)]
pub struct Resource {
    /// The group; empty for the legacy one.
    pub group: Text,
    /// The version this row serves.
    pub version: Text,
    /// The path segment.
    pub plural: Text,
    /// The singular name.
    pub singular: Text,
    /// The kind of one object.
    pub kind: Text,
    /// The kind of a list; empty when it cannot be listed.
    pub list_kind: Text,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// The verbs, sorted.
    pub verbs: Vec<Text>,
    /// Short names for people.
    pub short_names: Vec<Text>,
    /// Groups of resources such as `all`.
    pub categories: Vec<Text>,
    /// The hash of the stored group, version and kind, as discovery gives it.
    pub storage_hash: Text,
    /// What stands between `/registry/` and the namespace or name; empty when nothing is stored.
    pub key_prefix: Text,
    /// The group and version that objects are stored as.
    pub stored_as: Option<GroupVersion>,
    /// Field labels besides `metadata.name` and `metadata.namespace`.
    pub selectable_fields: Vec<Text>,
    /// What hangs on it.
    pub subresources: Vec<Subresource>,
    /// The shape of one object; `None` for custom resources.
    pub ty: Option<&'static Type>,
    /// Custom resources: `spec.versions[].schema.openAPIV3Schema`.
    pub schema: Option<Arc<serde_json::Value>>,
    /// Custom resources: `spec.versions[].additionalPrinterColumns`.
    pub printer_columns: Vec<serde_json::Value>,
    /// Custom resources: `spec.versions[].subresources.scale`.
    pub scale: Option<Arc<serde_json::Value>>,
    /// Custom resources: whether fields that the schema does not know are kept.
    pub preserve_unknown: bool,
    /// Custom resources: whether the stored form is the served form (one version, no defaults).
    pub plain: bool,
    /// Custom resources: `spec.conversion.webhook`, where versions are converted by one.
    pub conversion: Option<Arc<serde_json::Value>>,
    /// Custom resources: which of their definition's states the row is of.
    pub revision: Text,
}

impl Resource {
    /// Whether this row came from a CustomResourceDefinition.
    pub fn is_custom(&self) -> bool {
        self.ty.is_none()
    }

    /// Whether a deletion answers with the deleted object.
    pub fn returns_deleted(&self) -> bool {
        match self.group.as_ref() {
            "" => matches!(
                self.plural.as_ref(),
                "resourcequotas" | "persistentvolumes" | "serviceaccounts" | "persistentvolumeclaims" | "pods" | "services" | "podtemplates"
            ),
            "resource.k8s.io" => self.plural != "devicetaintrules",
            "storage.k8s.io" => {
                matches!(self.plural.as_ref(), "csidrivers" | "storageclasses" | "volumeattachments" | "csinodes" | "volumeattributesclasses")
            }
            _ => false,
        }
    }

    /// `v1` or `group/version`.
    pub fn api_version(&self) -> String {
        self.group_version().to_string()
    }

    /// The group and version this row serves.
    pub fn group_version(&self) -> GroupVersion {
        GroupVersion { group: self.group.clone(), version: self.version.clone() }
    }

    /// The name in error messages: `pods`, `deployments.apps`.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.to_string() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// Whether the verb is served.
    pub fn allows(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    /// The subresource of that name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// The storage key of a namespace's objects or of all, below `root` (e.g. `/registry`); ends with `/`.
    pub fn key_root(&self, root: &str, namespace: Option<&str>) -> String {
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => format!("{root}/{}/{namespace}/", self.key_prefix),
            None => format!("{root}/{}/", self.key_prefix),
        }
    }

    /// The storage key of one object below `root` (e.g. `/registry`).
    pub fn key(&self, root: &str, namespace: Option<&str>, name: &str) -> String {
        let mut key = self.key_root(root, namespace);
        key.push_str(name);
        key
    }
}

/// One group and its served versions, the preferred first.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// The name; empty for the legacy group.
    pub name: Text,
    /// The versions in order of preference.
    pub versions: Vec<Text>,
}

/// The served resources. Cloning is cheap; an extended catalog shares the rows of the old one.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    groups: Vec<Group>,
    resources: Vec<Arc<Resource>>,
    index: HashMap<Text, Vec<u32>>,
}

impl Catalog {
    /// What a v1.37 server serves by default.
    pub fn builtin() -> &'static Arc<Catalog> {
        static CATALOG: OnceLock<Arc<Catalog>> = OnceLock::new();
        CATALOG.get_or_init(|| Arc::new(parse(TABLE)))
    }

    /// Groups in discovery's order.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Every row, in discovery's order within a group and version.
    pub fn resources(&self) -> &[Arc<Resource>] {
        &self.resources
    }

    /// The row of a path.
    pub fn lookup(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.index.get(plural)?.iter().map(|i| &self.resources[*i as usize]).find(|r| r.group == group && r.version == version)
    }

    /// The row of a kind.
    pub fn of_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.resources.iter().find(|r| r.kind == kind && r.group == group && r.version == version)
    }

    /// The rows of a group and version.
    pub fn of_version<'a>(&'a self, group: &'a str, version: &'a str) -> impl Iterator<Item = &'a Arc<Resource>> {
        self.resources.iter().filter(move |r| r.group == group && r.version == version)
    }

    /// The built-in type of a kind: bodies that are no resource (Status, Scale, Eviction) included.
    pub fn type_of(&self, group: &str, version: &str, kind: &str) -> Option<&'static Type> {
        types().kind(group, version, kind)
    }

    /// A catalog with these rows too; rows of the same group, version and plural are replaced.
    /// `groups` gives the order of versions of groups that the built-in table does not know.
    pub fn extended(&self, groups: &[Group], rows: impl IntoIterator<Item = Arc<Resource>>) -> Catalog {
        let mut next = self.clone();
        for group in groups {
            match next.groups.iter_mut().find(|g| g.name == group.name) {
                Some(known) => known.versions = group.versions.clone(),
                None => next.groups.push(group.clone()),
            }
        }
        for row in rows {
            let at = next.index.get(&row.plural).and_then(|found| {
                found.iter().copied().find(|i| {
                    let r = &next.resources[*i as usize];
                    r.group == row.group && r.version == row.version
                })
            });
            match at {
                Some(i) => next.resources[i as usize] = row,
                None => next.push(row),
            }
        }
        next
    }

    /// A catalog of some of the rows; groups and versions without any are gone.
    pub fn only(&self, served: impl Fn(&Resource) -> bool) -> Catalog {
        let mut next = Catalog::default();
        let rows: Vec<_> = self.resources.iter().filter(|r| served(r)).collect();
        for group in &self.groups {
            let has = |v: &&Text| rows.iter().any(|r| r.group == group.name && r.version == **v);
            let versions: Vec<Text> = group.versions.iter().filter(has).cloned().collect();
            if !versions.is_empty() {
                next.groups.push(Group { name: group.name.clone(), versions });
            }
        }
        for row in rows {
            next.push(Arc::clone(row));
        }
        next
    }

    fn push(&mut self, row: Arc<Resource>) {
        match self.groups.iter_mut().find(|g| g.name == row.group) {
            Some(group) if !group.versions.contains(&row.version) => group.versions.push(row.version.clone()),
            Some(_) => {}
            None => self.groups.push(Group { name: row.group.clone(), versions: vec![row.version.clone()] }),
        }
        self.index.entry(row.plural.clone()).or_default().push(self.resources.len() as u32);
        self.resources.push(row);
    }
}

fn parse(table: &'static str) -> Catalog {
    let mut catalog = Catalog::default();
    let mut rows: Vec<Resource> = Vec::new();
    for line in table.lines() {
        let cells: Vec<&'static str> = line.split('\t').map(|c| if c == "-" { "" } else { c }).collect();
        match cells[..] {
            ["group", name, versions] => catalog.groups.push(Group { name: name.into(), versions: list(versions) }),
            ["resource", group, version, plural, singular, kind, list_kind, scope, verbs, short, categories, hash, prefix, stored, labels] => {
                rows.push(Resource {
                    group: group.into(),
                    version: version.into(),
                    plural: plural.into(),
                    singular: singular.into(),
                    kind: kind.into(),
                    list_kind: list_kind.into(),
                    namespaced: scope == "n",
                    verbs: list(verbs),
                    short_names: list(short),
                    categories: list(categories),
                    storage_hash: hash.into(),
                    key_prefix: prefix.into(),
                    stored_as: (!stored.is_empty()).then(|| GroupVersion::parse(stored)),
                    selectable_fields: list(labels),
                    subresources: Vec::new(),
                    ty: types().kind(group, version, kind),
                    schema: None,
                    printer_columns: Vec::new(),
                    scale: None,
                    preserve_unknown: false,
                    plain: false,
                    conversion: None,
                    revision: "".into(),
                });
            }
            ["sub", name, group, version, kind, verbs] => {
                if let Some(row) = rows.last_mut() {
                    row.subresources.push(Subresource {
                        name: name.into(),
                        group_version: (version != "=").then(|| GroupVersion::new(group, version)),
                        kind: kind.into(),
                        verbs: list(verbs),
                    });
                }
            }
            _ => {}
        }
    }
    for row in rows {
        catalog.push(Arc::new(row));
    }
    catalog
}

fn list(cell: &'static str) -> Vec<Text> {
    cell.split(',').filter(|c| !c.is_empty()).map(Cow::Borrowed).collect()
}

#[cfg(test)]
mod tests;
