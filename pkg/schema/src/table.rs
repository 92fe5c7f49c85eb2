//! Tables: what `kubectl get` prints, computed by the server.

mod cells;
mod columns;
mod pod;

use std::{collections::HashMap, sync::OnceLock};

use serde_json::{Map, Value, json};

use crate::{Resource, time::Instant};

static COLUMNS: &str = include_str!("../../../api/columns.tsv");

/// What each row carries besides its cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// The object's metadata.
    #[default]
    Metadata,
    /// The whole object.
    Object,
}

impl IncludeObject {
    /// Parses the query parameter; empty is [`IncludeObject::Metadata`].
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Metadata" => Some(Self::Metadata),
            "None" => Some(Self::None),
            "Object" => Some(Self::Object),
            _ => None,
        }
    }
}

/// A `meta.k8s.io/v1` table of the objects. `list_meta` is the list's metadata (or one object's
/// resourceVersion); `headers` is false for all but the first event of a watch.
pub fn table(resource: &Resource, objects: &[&Value], list_meta: Value, include: IncludeObject, headers: bool, now: Instant) -> Value {
    let definitions = definitions(resource);
    let default_class = if resource.plural == "storageclasses" { cells::default_storage_class(objects) } else { None };
    let mut sorted: Vec<&Value> = objects.to_vec();
    if resource.kind == "FlowSchema" && objects.len() > 1 {
        sorted.sort_by_key(|o| (o.pointer("/spec/matchingPrecedence").and_then(Value::as_i64).unwrap_or(0), cells::text(o, "/metadata/name").to_owned()));
    }
    let rows: Vec<Value> = sorted
        .iter()
        .map(|object| {
            let mut cells = cells(resource, object, now);
            if default_class.is_some() && default_class == object.pointer("/metadata/name").and_then(Value::as_str) && objects.len() > 1 {
                cells[0] = format!("{} (default)", default_class.unwrap_or_default()).into();
            }
            let mut row = json!({"cells": cells});
            if resource.kind == "Pod" && resource.group.is_empty() {
                let reason = match cells::text(object, "/status/phase") {
                    "Succeeded" => Some(("Succeeded", "The pod has completed successfully.")),
                    "Failed" => Some(("Failed", "The pod failed.")),
                    _ => None,
                };
                if let Some((reason, message)) = reason {
                    row["conditions"] = json!([{"type": "Completed", "status": "True", "reason": reason, "message": message}]);
                }
            }
            row["object"] = match include {
                IncludeObject::None => Value::Null,
                IncludeObject::Metadata => partial(object),
                IncludeObject::Object => (*object).clone(),
            };
            row
        })
        .collect();
    let columns = if headers { definitions } else { Vec::new() };
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": list_meta, "columnDefinitions": if headers { json!(columns) } else { Value::Null }, "rows": rows})
}

/// The cells of one object's row, wide ones included.
pub fn cells(resource: &Resource, object: &Value, now: Instant) -> Vec<Value> {
    let view = cells::View { object, now };
    if resource.is_custom() {
        return columns::custom(resource, &view);
    }
    cells::of(&resource.group, &resource.kind, &view).unwrap_or_else(|| vec![view.name(), object.pointer("/metadata/creationTimestamp").cloned().unwrap_or(Value::Null)])
}

/// An object's metadata as `PartialObjectMetadata`.
pub fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object.get("metadata").cloned().unwrap_or_else(|| json!({}))})
}

/// A list's metadata and its items' as `PartialObjectMetadataList`.
pub fn partial_list(list_meta: Value, objects: &[&Value]) -> Value {
    let items: Vec<Value> = objects.iter().map(|o| partial(o)).collect();
    json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": list_meta, "items": items})
}

fn definition(name: &str, kind: &str, format: &str, priority: i64, description: &str) -> Value {
    json!({"name": name, "type": kind, "format": format, "description": description, "priority": priority})
}

/// The columns of a resource.
pub fn definitions(resource: &Resource) -> Vec<Value> {
    if resource.is_custom() {
        return columns::custom_definitions(resource);
    }
    if resource.kind == "APIService" {
        return vec![
            definition("Name", "string", "name", 0, ""),
            definition("Service", "string", "", 0, ""),
            definition("Available", "string", "", 0, ""),
            definition("Age", "string", "", 0, ""),
        ];
    }
    if resource.kind == "CustomResourceDefinition" {
        let wide = |name, kind| definition(name, kind, "", 1, "");
        return vec![
            definition("Name", "string", "name", 0, ""),
            definition("Scope", "string", "", 0, ""),
            definition("Versions", "string", "", 0, ""),
            definition("Created At", "date", "", 0, ""),
            wide("Group", "string"),
            wide("Kind", "string"),
            wide("ShortNames", "string"),
            wide("Established", "boolean"),
        ];
    }
    built_in().get(&(&*resource.group, &*resource.kind)).cloned().unwrap_or_else(|| vec![definition("Name", "string", "name", 0, ""), definition("Created At", "date", "", 0, "")])
}

type Columns = HashMap<(&'static str, &'static str), Vec<Value>>;

fn built_in() -> &'static Columns {
    static PARSED: OnceLock<Columns> = OnceLock::new();
    PARSED.get_or_init(|| {
        let mut all: Columns = HashMap::new();
        let mut at = ("", "");
        for line in COLUMNS.lines() {
            let cells: Vec<&'static str> = line.split('\t').map(|c| if c == "-" { "" } else { c }).collect();
            match cells[..] {
                ["=kind", group, kind] => at = (group, kind),
                [name, kind, format, priority] => all.entry(at).or_default().push(definition(name, kind, format, priority.parse().unwrap_or(0), "")),
                _ => {}
            }
        }
        all
    })
}

/// Drops the cells of a map that a JSON merge would not show; used by columns of custom resources.
pub(crate) fn compact(map: &Map<String, Value>) -> String {
    Value::Object(map.clone()).to_string()
}

#[cfg(test)]
mod tests;
