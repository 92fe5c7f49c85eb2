//! The `managedFields` of an object.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Set, Writer};
use crate::time::{self, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn text(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// What tells managers apart. An applier is the same in every version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    operation: Operation,
    manager: String,
    api_version: String,
    subresource: String,
}

impl Id {
    /// As conflict messages show it.
    pub fn shown(&self) -> String {
        let mut out = crate::json::quote(&self.manager);
        if !self.subresource.is_empty() {
            out += &format!(" with subresource {}", crate::json::quote(&self.subresource));
        }
        if self.operation == Operation::Update {
            out += &format!(" using {}", self.api_version);
        }
        out
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Entry {
    pub set: Set,
    pub api_version: String,
    pub time: Option<Instant>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Managers {
    entries: BTreeMap<Id, Entry>,
    spare: Entry,
}

impl Managers {
    /// Reads `managedFields`; `None` when it is absent or of another form.
    pub fn parse(list: &Value) -> Option<Self> {
        let mut managers = Self::default();
        for item in list.as_array()? {
            let text = |key: &str| item.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            let operation = match &*text("operation") {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return None,
            };
            let api_version = text("apiVersion");
            let id = Id { operation, manager: text("manager"), api_version: if operation == Operation::Apply { String::new() } else { api_version.clone() }, subresource: text("subresource") };
            let set = Set::parse(item.get("fieldsV1").unwrap_or(&Value::Null));
            managers.entries.insert(id, Entry { set, api_version, time: time::parse(&text("time")) });
        }
        Some(managers)
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The writer's entry, made when there is none.
    pub fn entry(&mut self, writer: &Writer<'_>, operation: Operation) -> Id {
        let id = Id {
            operation,
            manager: writer.manager.to_owned(),
            api_version: if operation == Operation::Apply { String::new() } else { writer.api_version.to_owned() },
            subresource: writer.subresource.to_owned(),
        };
        self.entries.entry(id.clone()).or_insert_with(|| Entry { api_version: writer.api_version.to_owned(), ..Entry::default() });
        id
    }

    pub fn get_mut(&mut self, id: &Id) -> &mut Entry {
        self.entries.get_mut(id).unwrap_or(&mut self.spare)
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&Id, &mut Entry)> {
        self.entries.iter_mut()
    }

    /// Drops who owns nothing.
    pub fn settle(&mut self) {
        self.entries.retain(|_, e| !e.set.is_empty());
    }

    /// Merges the oldest updaters of one version into one, so that at most `max` remain.
    pub fn cap(&mut self, max: usize) {
        let mut updaters: Vec<(Option<Instant>, Id)> = self.entries.iter().filter(|(id, _)| id.operation == Operation::Update && id.subresource.is_empty()).map(|(id, e)| (e.time, id.clone())).collect();
        if updaters.len() <= max {
            return;
        }
        updaters.sort();
        let mut count = updaters.len();
        for (_, id) in updaters {
            if count <= max || id.manager == "ancient-changes" {
                continue;
            }
            let Some(old) = self.entries.remove(&id) else { continue };
            let bucket = Id { manager: "ancient-changes".into(), ..id };
            let merged = match self.entries.remove(&bucket) {
                Some(found) => {
                    count -= 1;
                    Entry { set: found.set.union(&old.set), time: found.time.max(old.time), ..found }
                }
                None => old,
            };
            self.entries.insert(bucket, merged);
        }
    }

    /// Writes `managedFields` in upstream's order: appliers first, then by time and name.
    pub fn write(&self, object: &mut Value) {
        let Some(meta) = object.as_object_mut().map(|o| o.entry("metadata").or_insert_with(|| json!({}))) else { return };
        let mut entries: Vec<(&Id, &Entry)> = self.entries.iter().collect();
        let order = |(id, e): &(&Id, &Entry)| (id.operation, e.time.map(|t| t.seconds));
        let names = |(id, e): &(&Id, &Entry)| [id.manager.clone(), e.api_version.clone(), id.subresource.clone()];
        entries.sort_by(|a, b| order(a).cmp(&order(b)).then_with(|| names(a).cmp(&names(b))));
        let list: Vec<Value> = entries
            .into_iter()
            .map(|(id, entry)| {
                let mut item = json!({"manager": id.manager, "operation": id.operation.text(), "apiVersion": entry.api_version, "fieldsType": "FieldsV1", "fieldsV1": entry.set.to_value()});
                if let Some(at) = entry.time {
                    item["time"] = time::format(at).into();
                }
                if !id.subresource.is_empty() {
                    item["subresource"] = id.subresource.clone().into();
                }
                item
            })
            .collect();
        if let Value::Object(meta) = meta {
            if list.is_empty() {
                meta.remove("managedFields");
            } else {
                meta.insert("managedFields".into(), Value::Array(list));
            }
        }
    }
}
