//! The shape of every body: one row per field, parsed once from `api/types.tsv`.

use std::{collections::HashMap, sync::OnceLock};

pub(crate) static TABLE: &str = include_str!("../../../api/types.tsv");

/// What a field holds: its JSON form and its wire form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// UTF-8 text.
    String,
    /// `true` or `false`.
    Bool,
    /// A signed integer of 32 bits.
    Int32,
    /// A signed integer of 64 bits.
    Int64,
    /// An unsigned integer of the given number of bits.
    Uint(u8),
    /// A double.
    Float64,
    /// Bytes; base64 in JSON.
    Bytes,
    /// A quantity such as `100m`.
    Quantity,
    /// RFC 3339, whole seconds.
    Time,
    /// RFC 3339, microseconds.
    MicroTime,
    /// A duration such as `1m0s`.
    Duration,
    /// A number or a string.
    IntOrString,
    /// Any object, passed along.
    RawExtension,
    /// A set of fields, passed along.
    FieldsV1,
    /// Any JSON value (CRD defaults, enum values, examples).
    Json,
    /// A schema or a boolean (CRD `additionalProperties`).
    SchemaOrBool,
    /// A schema or a list of them (CRD `items`).
    SchemaOrArray,
    /// A schema or a list of strings (CRD `dependencies`).
    SchemaOrStrings,
    /// A list of strings that is a message of its own in protobuf.
    Strings,
    /// A struct.
    Struct(TypeId),
    /// A list of elements.
    List(&'static Shape),
    /// A map from strings to elements.
    Map(&'static Shape),
}

/// Index of a [`Type`] in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TypeId(u32);

impl TypeId {
    /// The type.
    pub fn get(self) -> &'static Type {
        &types().all[self.0 as usize]
    }
}

/// How lists and maps are merged by server-side apply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Merge {
    /// Not marked: lists are atomic, maps and structs granular.
    #[default]
    Unset,
    /// Replaced as one value.
    Atomic,
    /// A list of scalars without duplicates.
    Set,
    /// A list keyed by fields, or a granular map.
    Map,
}

/// One field of a struct.
#[derive(Clone, Debug)]
pub struct Field {
    /// The JSON name; empty for an inlined struct.
    pub name: &'static str,
    /// The protobuf field number; `0` is not on the wire.
    pub number: u32,
    /// What it holds.
    pub shape: Shape,
    /// Its struct's fields stand in the place of it.
    pub inline: bool,
    /// Left out of JSON when empty.
    pub omit_empty: bool,
    /// Left out of JSON when it is its type's zero value, structs included.
    pub omit_zero: bool,
    /// Absent differs from zero.
    pub pointer: bool,
    /// The schema's default is the empty string.
    pub blank_default: bool,
    /// The schema says that it must be there.
    pub required: bool,
    /// Strategic merge: `merge` is among the strategies.
    pub patch_merge: bool,
    /// Strategic merge: `retainKeys` is among the strategies.
    pub patch_retain_keys: bool,
    /// Strategic merge: a map is replaced whole.
    pub patch_replace: bool,
    /// Strategic merge: the key of list elements.
    pub patch_merge_key: &'static str,
    /// Server-side apply: how a list merges.
    pub list_type: Merge,
    /// Server-side apply: the keys of a list of type map.
    pub list_keys: Vec<&'static str>,
    /// Server-side apply: how a map or struct merges.
    pub map_type: Merge,
    /// Allowed values; empty is any.
    pub enumeration: Vec<&'static str>,
    /// The unconditional default, as JSON text.
    pub default: Option<&'static str>,
    /// The name of the type as decoding errors give it, where it is not the shape's own.
    pub go_type: &'static str,
    flags: &'static str,
}

impl Field {
    /// The allowed values of an element of a list or map; none is any.
    pub fn element_values(&self) -> impl Iterator<Item = String> {
        self.flag("ee").into_iter().flat_map(|v| v.split('|')).map(|v| v.replace("%20", " "))
    }

    /// The default that the schema states, as JSON text, where the field's other marks do not tell it.
    pub fn stated_default(&self) -> Option<&'static str> {
        self.flag("s")
    }

    fn flag(&self, name: &str) -> Option<&'static str> {
        let words = self.flags.split(' ').take_while(|w| !w.starts_with("d="));
        words.filter_map(|w| w.split_once('=')).find_map(|(k, v)| (k == name).then_some(v))
    }
}

impl Field {
    /// Whether Go writes it also when nobody has set it.
    fn always_written(&self) -> bool {
        if self.omit_zero {
            return false;
        }
        // omitempty has no effect on structs.
        let structure = matches!(
            self.shape,
            Shape::Struct(_) | Shape::Time | Shape::MicroTime | Shape::RawExtension | Shape::Quantity | Shape::IntOrString | Shape::Duration | Shape::Json
        );
        !self.omit_empty || (structure && !self.pointer)
    }
}

/// One struct.
#[derive(Clone, Debug)]
pub struct Type {
    /// The OpenAPI model name, e.g. `io.k8s.api.core.v1.Pod`.
    pub name: &'static str,
    id: TypeId,
    /// The fields in their order of declaration.
    pub fields: Vec<Field>,
    /// Server-side apply replaces it as one value.
    pub atomic: bool,
    /// The `x-kubernetes-unions` extension as JSON text.
    pub unions: Option<&'static str>,
    /// Whether this type or one below it has a default.
    pub has_defaults: bool,
    wire: Vec<u16>,
    names: OnceLock<Names>,
}

/// The fields by other orders, made when first asked for.
#[derive(Clone, Debug)]
struct Names {
    /// Indices of the struct's own fields that are not inlined, by name.
    own: Vec<u16>,
    /// All fields, inlined structs' in place, by name.
    all: Vec<&'static Field>,
    /// Those that Go writes also when nobody has set them.
    always: Vec<&'static Field>,
}

/// Finds the items of one ascending sequence of names in another, each from where the last was.
pub(crate) struct Walk<'n, T> {
    rest: &'n [T],
}

impl<'n, T> Walk<'n, T> {
    pub(crate) fn new(sorted: &'n [T]) -> Self {
        Self { rest: sorted }
    }

    /// The item of that name; later calls must ask for greater ones.
    pub(crate) fn find(&mut self, name: &str, of: impl Fn(&T) -> &str) -> Option<&'n T> {
        match self.rest.binary_search_by(|item| of(item).cmp(name)) {
            Ok(at) => {
                let found = &self.rest[at];
                self.rest = &self.rest[at + 1..];
                Some(found)
            }
            Err(at) => {
                self.rest = &self.rest[at..];
                None
            }
        }
    }
}

impl Type {
    /// Its index.
    pub fn id(&self) -> TypeId {
        self.id
    }

    /// The field of that JSON name, inlined structs included.
    pub fn field(&'static self, name: &str) -> Option<&'static Field> {
        self.field_and_owner(name).map(|found| found.0)
    }

    /// The field of that JSON name and the struct that declares it.
    pub fn field_and_owner(&'static self, name: &str) -> Option<(&'static Field, &'static Type)> {
        if let Some(field) = self.fields.iter().find(|f| f.name == name && !f.inline) {
            return Some((field, self));
        }
        self.fields.iter().filter(|f| f.inline).find_map(|f| match f.shape {
            Shape::Struct(id) => id.get().field_and_owner(name),
            _ => None,
        })
    }

    /// Calls `visit` for each field, inlined structs' fields in place.
    pub fn each_field(&'static self, visit: &mut dyn FnMut(&'static Field)) {
        for field in &self.fields {
            match (field.inline, field.shape) {
                (true, Shape::Struct(id)) => id.get().each_field(visit),
                _ => visit(field),
            }
        }
    }

    fn names(&'static self) -> &'static Names {
        self.names.get_or_init(|| {
            let mut own: Vec<u16> = (0u16..).zip(&self.fields).filter(|(_, f)| !f.inline).map(|(i, _)| i).collect();
            own.sort_by_key(|i| self.fields[usize::from(*i)].name);
            let mut all = Vec::new();
            self.each_field(&mut |field| all.push(field));
            let always = all.iter().filter(|f| f.always_written()).copied().collect();
            all.sort_by_key(|f| f.name);
            Names { own, all, always }
        })
    }

    /// All fields in the order of their names, inlined structs' in place.
    pub(crate) fn by_name(&'static self) -> &'static [&'static Field] {
        &self.names().all
    }

    /// The fields that Go writes also when nobody has set them, inlined structs' in place.
    pub(crate) fn always_written(&'static self) -> &'static [&'static Field] {
        &self.names().always
    }

    /// Indices of the struct's own fields that are not inlined, in the order of their names.
    pub(crate) fn own_by_name(&'static self) -> &'static [u16] {
        &self.names().own
    }

    /// Indices of the fields that are on the wire, in the order of their numbers.
    pub fn wire_order(&self) -> &[u16] {
        &self.wire
    }

    /// The name as decoding errors give it, e.g. `v1.PodSpec`.
    pub fn go_name(&self) -> String {
        let mut parts = self.name.rsplitn(3, '.');
        match (parts.next(), parts.next()) {
            (Some(name), Some(package)) => format!("{package}.{name}"),
            _ => self.name.to_owned(),
        }
    }

    /// The last part of the name, e.g. `PodSpec`.
    pub fn short_name(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }
}

/// All types, and which of them are kinds.
#[derive(Debug, Default)]
pub struct Types {
    all: Vec<Type>,
    by_name: HashMap<&'static str, TypeId>,
    kinds: HashMap<(&'static str, &'static str, &'static str), TypeId>,
    group_versions: Vec<(&'static str, &'static str)>,
}

impl Types {
    /// Every group and version that Kubernetes has types of, served or not, in order.
    pub fn group_versions(&self) -> &[(&'static str, &'static str)] {
        &self.group_versions
    }

    /// The type with that OpenAPI model name.
    pub fn named(&self, name: &str) -> Option<&'static Type> {
        self.by_name.get(name).map(|id| id.get())
    }

    /// The type of a kind.
    pub fn kind(&self, group: &str, version: &str, kind: &str) -> Option<&'static Type> {
        self.kinds.get(&(group, version, kind)).map(|id| id.get())
    }

    /// Every type in the table's order.
    pub fn all(&self) -> &[Type] {
        &self.all
    }

    /// Every kind: group, version, kind, type.
    pub fn kinds(&self) -> impl Iterator<Item = (&'static str, &'static str, &'static str, &'static Type)> {
        self.kinds.iter().map(|(k, id)| (k.0, k.1, k.2, id.get()))
    }
}

/// The built-in types.
pub fn types() -> &'static Types {
    static TYPES: OnceLock<Types> = OnceLock::new();
    TYPES.get_or_init(|| parse(TABLE))
}

fn parse(table: &'static str) -> Types {
    let mut types = Types::default();
    for line in table.lines() {
        if let Some(name) = line.strip_prefix("=type\t").and_then(|rest| rest.split('\t').next()) {
            let id = TypeId(types.by_name.len() as u32);
            types.by_name.insert(name, id);
        }
    }
    types.all.reserve(types.by_name.len());
    for line in table.lines() {
        let mut cells = line.split('\t');
        let mut next = || cells.next().unwrap_or_default();
        match next() {
            "=kind" => {
                let (group, version, kind, name) = (undash(next()), next(), next(), next());
                if let Some(id) = types.by_name.get(name) {
                    types.kinds.insert((group, version, kind), *id);
                }
            }
            "=gv" => types.group_versions.push((undash(next()), next())),
            "=type" => {
                let (name, flags) = (next(), next());
                let mut ty = Type { name, id: TypeId(types.all.len() as u32), fields: Vec::new(), atomic: false, unions: None, has_defaults: false, wire: Vec::new(), names: OnceLock::new() };
                for flag in flags.split(' ') {
                    match flag.split_once('=') {
                        Some(("mt", "atomic")) => ty.atomic = true,
                        Some(("u", value)) => ty.unions = Some(value),
                        _ => {}
                    }
                }
                types.all.push(ty);
            }
            name => {
                let (number, shape, flags) = (next(), next(), next());
                let field = field(&types, name, number, shape, flags);
                if let Some(ty) = types.all.last_mut() {
                    ty.fields.push(field);
                }
            }
        }
    }
    for ty in &mut types.all {
        ty.wire = (0..ty.fields.len() as u16).filter(|i| ty.fields[*i as usize].number > 0).collect();
        ty.wire.sort_by_key(|i| ty.fields[*i as usize].number);
    }
    mark_defaults(&mut types);
    types
}

fn undash(cell: &'static str) -> &'static str {
    if cell == "-" { "" } else { cell }
}

fn merge(value: &str) -> Merge {
    match value {
        "atomic" => Merge::Atomic,
        "set" => Merge::Set,
        "map" | "granular" => Merge::Map,
        _ => Merge::Unset,
    }
}

fn field(types: &Types, name: &'static str, number: &str, expr: &'static str, flags: &'static str) -> Field {
    let mut field = Field {
        name: undash(name),
        number: number.parse().unwrap_or(0),
        shape: shape(types, expr),
        inline: false,
        omit_empty: false,
        omit_zero: false,
        pointer: false,
        blank_default: false,
        required: false,
        patch_merge: false,
        patch_retain_keys: false,
        patch_replace: false,
        patch_merge_key: "",
        list_type: Merge::Unset,
        list_keys: Vec::new(),
        map_type: Merge::Unset,
        enumeration: Vec::new(),
        default: None,
        go_type: "",
        flags,
    };
    let mut rest = flags;
    while !rest.is_empty() && rest != "-" {
        // The default is the last flag, because its text may hold spaces.
        if let Some(text) = rest.strip_prefix("d=") {
            field.default = Some(text);
            break;
        }
        let (flag, tail) = rest.split_once(' ').unwrap_or((rest, ""));
        rest = tail;
        match flag.split_once('=') {
            Some(("ps", value)) => {
                field.patch_merge = value.split(',').any(|v| v == "merge");
                field.patch_replace = value.split(',').any(|v| v == "replace");
                field.patch_retain_keys = value.split(',').any(|v| v == "retainKeys");
            }
            Some(("pk", value)) => field.patch_merge_key = value,
            Some(("lt", value)) => field.list_type = merge(value),
            Some(("lk", value)) => field.list_keys = value.split('|').collect(),
            Some(("mt", value)) => field.map_type = merge(value),
            Some(("e", value)) => field.enumeration = value.split('|').collect(),
            Some(("g", value)) => field.go_type = value,
            _ => match flag {
                "i" => field.inline = true,
                "o" => field.omit_empty = true,
                "z" => field.omit_zero = true,
                "p" => field.pointer = true,
                "r" => field.required = true,
                "v" => field.blank_default = true,
                _ => {}
            },
        }
    }
    field
}

fn shape(types: &Types, expr: &'static str) -> Shape {
    if let Some(element) = expr.strip_prefix("[]") {
        return Shape::List(Box::leak(Box::new(shape(types, element))));
    }
    if let Some(element) = expr.strip_prefix("{}") {
        return Shape::Map(Box::leak(Box::new(shape(types, element))));
    }
    match expr {
        "string" => Shape::String,
        "bool" => Shape::Bool,
        "int32" => Shape::Int32,
        "int" | "int64" => Shape::Int64,
        "uint8" => Shape::Uint(8),
        "uint16" => Shape::Uint(16),
        "uint32" => Shape::Uint(32),
        "uint64" => Shape::Uint(64),
        "float32" | "float64" => Shape::Float64,
        "bytes" => Shape::Bytes,
        "Quantity" => Shape::Quantity,
        "Time" => Shape::Time,
        "MicroTime" => Shape::MicroTime,
        "Duration" => Shape::Duration,
        "IntOrString" => Shape::IntOrString,
        "RawExtension" => Shape::RawExtension,
        "FieldsV1" => Shape::FieldsV1,
        "JSON" => Shape::Json,
        "SchemaOrBool" => Shape::SchemaOrBool,
        "SchemaOrArray" => Shape::SchemaOrArray,
        "SchemaOrStrings" => Shape::SchemaOrStrings,
        "Strings" => Shape::Strings,
        name => types.by_name.get(name).map_or(Shape::Json, |id| Shape::Struct(*id)),
    }
}

fn mark_defaults(types: &mut Types) {
    loop {
        let mut changed = false;
        for i in 0..types.all.len() {
            let ty = &types.all[i];
            let has = ty.has_defaults
                || crate::defaults::RULED.contains(&ty.name)
                || ty.fields.iter().any(|f| f.default.is_some() || below(&f.shape).is_some_and(|id| types.all[id.0 as usize].has_defaults));
            if has && !ty.has_defaults {
                types.all[i].has_defaults = true;
                changed = true;
            }
        }
        if !changed {
            return;
        }
    }
}

fn below(shape: &Shape) -> Option<TypeId> {
    match shape {
        Shape::Struct(id) => Some(*id),
        Shape::List(element) | Shape::Map(element) => below(element),
        _ => None,
    }
}
