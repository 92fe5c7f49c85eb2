//! Types, and declarations: a type with what a schema says about sizes.

use std::{collections::BTreeMap, fmt, sync::Arc};

/// A type of the language.
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// Anything; known when it is evaluated.
    Dyn,
    /// The type of an expression that is wrong already.
    Error,
    /// `null`.
    Null,
    /// Booleans.
    Bool,
    /// Signed integers.
    Int,
    /// Unsigned integers.
    Uint,
    /// Floating point numbers.
    Double,
    /// Text.
    String,
    /// Bytes.
    Bytes,
    /// `google.protobuf.Duration`.
    Duration,
    /// `google.protobuf.Timestamp`.
    Timestamp,
    /// A list and its elements.
    List(Arc<Decl>),
    /// A map, its keys and values.
    Map(Arc<Type>, Arc<Decl>),
    /// A struct.
    Object(Arc<ObjectType>),
    /// A type of a library, by its name.
    Opaque(&'static str),
    /// An optional value.
    Optional(Arc<Type>),
    /// A type as a value.
    Type(Arc<Type>),
    /// A parameter of a function's declaration.
    Param(&'static str),
    /// A type that checking has yet to find.
    Var(u32),
}

/// How two lists are compared and added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListKind {
    /// Element by element; added at the end.
    #[default]
    Atomic,
    /// As sets.
    Set,
    /// As maps with these keys.
    Map(Vec<String>),
}

/// A value's type and what its schema says about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Decl {
    /// The type.
    pub ty: Type,
    /// The most elements, entries, characters or bytes; `None` is unknown.
    pub max: Option<u64>,
    /// How a list is compared and added.
    pub list: ListKind,
}

/// A struct's name and fields.
#[derive(Debug)]
pub struct ObjectType {
    /// The name, unique among the types that are used together.
    pub name: String,
    /// Fields by the name that expressions use (see [`crate::escape`]).
    pub fields: BTreeMap<String, Field>,
}

/// A field of a struct.
#[derive(Clone, Debug)]
pub struct Field {
    /// The name in JSON.
    pub name: String,
    /// Its value.
    pub decl: Decl,
}

impl PartialEq for ObjectType {
    fn eq(&self, o: &Self) -> bool {
        self.name == o.name
    }
}

impl Decl {
    /// Any value.
    pub const ANY: Decl = Decl { ty: Type::Dyn, max: None, list: ListKind::Atomic };

    /// A type of unknown size.
    #[must_use]
    pub const fn of(ty: Type) -> Self {
        Self { ty, max: None, list: ListKind::Atomic }
    }
}

impl ObjectType {
    /// A struct from its fields.
    #[must_use]
    pub fn new(name: impl Into<String>, fields: impl IntoIterator<Item = (&'static str, Type)>) -> Arc<Self> {
        let fields = fields.into_iter().map(|(n, ty)| (n.to_owned(), Field { name: n.to_owned(), decl: Decl::of(ty) })).collect();
        Arc::new(Self { name: name.into(), fields })
    }
}

impl Type {
    /// A list of a type.
    #[must_use]
    pub fn list(of: Type) -> Self {
        Type::List(Arc::new(Decl::of(of)))
    }
    /// A map of types.
    #[must_use]
    pub fn map(key: Type, value: Type) -> Self {
        Type::Map(Arc::new(key), Arc::new(Decl::of(value)))
    }
    /// Whether values of it are known when they are evaluated only.
    #[must_use]
    pub fn is_dyn(&self) -> bool {
        matches!(self, Type::Dyn | Type::Error)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Dyn => f.write_str("dyn"),
            Type::Error => f.write_str("!error!"),
            Type::Null => f.write_str("null"),
            Type::Bool => f.write_str("bool"),
            Type::Int => f.write_str("int"),
            Type::Uint => f.write_str("uint"),
            Type::Double => f.write_str("double"),
            Type::String => f.write_str("string"),
            Type::Bytes => f.write_str("bytes"),
            Type::Duration => f.write_str("duration"),
            Type::Timestamp => f.write_str("timestamp"),
            Type::List(e) => write!(f, "list({})", e.ty),
            Type::Map(k, v) => write!(f, "map({k}, {})", v.ty),
            Type::Object(o) => f.write_str(&o.name),
            Type::Opaque(n) => f.write_str(n),
            Type::Optional(t) => write!(f, "optional_type({t})"),
            Type::Type(t) => write!(f, "type({t})"),
            Type::Param(n) => f.write_str(n),
            Type::Var(n) => write!(f, "_var{n}"),
        }
    }
}

impl Type {
    /// The name as values of the type have it: `google.protobuf.Timestamp`, `null_type`.
    pub fn runtime_name(&self) -> String {
        match self {
            Type::Null => "null_type".to_owned(),
            Type::Duration => "google.protobuf.Duration".to_owned(),
            Type::Timestamp => "google.protobuf.Timestamp".to_owned(),
            Type::List(e) => format!("list({})", e.ty.runtime_name()),
            Type::Map(k, v) => format!("map({}, {})", k.runtime_name(), v.ty.runtime_name()),
            Type::Optional(t) => format!("optional_type({})", t.runtime_name()),
            Type::Type(t) => format!("type({})", t.runtime_name()),
            other => other.to_string(),
        }
    }
}

/// The variables of a policy as they become known: a struct whose fields are their results.
#[derive(Clone, Debug, Default)]
pub struct Composed(BTreeMap<String, Field>);

impl Composed {
    /// Adds a variable; of a result that is a struct, a library's type or wrong, nothing is known.
    pub fn add(&mut self, name: &str, result: Option<&Type>) {
        let decl = Decl::of(result.map_or(Type::Dyn, stored));
        self.0.insert(name.to_owned(), Field { name: name.to_owned(), decl });
    }

    /// The declaration of `variables`.
    #[must_use]
    pub fn decl(&self) -> Decl {
        Decl::of(Type::Object(Arc::new(ObjectType { name: "kubernetes.variables".into(), fields: self.0.clone() })))
    }
}

fn stored(t: &Type) -> Type {
    match t {
        Type::Bool | Type::Bytes | Type::Double | Type::Duration | Type::Int | Type::Null | Type::String | Type::Timestamp | Type::Uint => t.clone(),
        Type::List(d) => Type::list(stored(&d.ty)),
        Type::Map(k, v) => Type::map(stored(k), stored(&v.ty)),
        _ => Type::Dyn,
    }
}
