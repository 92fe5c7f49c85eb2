//! The functions that exist, as data: a name, and for each overload its arguments and its result.
//! A receiver is the argument before the dot.

use std::{collections::HashMap, sync::{Arc, OnceLock}};

use crate::types::{Decl, Type};

/// One overload.
#[derive(Debug)]
pub(crate) struct Overload {
    pub member: bool,
    pub args: Vec<Type>,
    pub result: Type,
}

/// `name signature…`; a signature is `(args)result`, or `receiver.(args)result`.
const TABLE: &str = "
_?_:_ (bool,A,A)A
_&&_ (bool,bool)bool
_||_ (bool,bool)bool
!_ (bool)bool
@not_strictly_false (bool)bool
_==_ (A,A)bool
_!=_ (A,A)bool
_<_ (bool,bool)bool (int,int)bool (int,double)bool (int,uint)bool (uint,uint)bool (uint,double)bool (uint,int)bool (double,double)bool (double,int)bool (double,uint)bool (string,string)bool (bytes,bytes)bool (timestamp,timestamp)bool (duration,duration)bool
_<=_ (bool,bool)bool (int,int)bool (int,double)bool (int,uint)bool (uint,uint)bool (uint,double)bool (uint,int)bool (double,double)bool (double,int)bool (double,uint)bool (string,string)bool (bytes,bytes)bool (timestamp,timestamp)bool (duration,duration)bool
_>_ (bool,bool)bool (int,int)bool (int,double)bool (int,uint)bool (uint,uint)bool (uint,double)bool (uint,int)bool (double,double)bool (double,int)bool (double,uint)bool (string,string)bool (bytes,bytes)bool (timestamp,timestamp)bool (duration,duration)bool
_>=_ (bool,bool)bool (int,int)bool (int,double)bool (int,uint)bool (uint,uint)bool (uint,double)bool (uint,int)bool (double,double)bool (double,int)bool (double,uint)bool (string,string)bool (bytes,bytes)bool (timestamp,timestamp)bool (duration,duration)bool
_+_ (bytes,bytes)bytes (double,double)double (duration,duration)duration (duration,timestamp)timestamp (timestamp,duration)timestamp (int,int)int (list<A>,list<A>)list<A> (string,string)string (uint,uint)uint
_-_ (double,double)double (duration,duration)duration (int,int)int (timestamp,duration)timestamp (timestamp,timestamp)duration (uint,uint)uint
_*_ (double,double)double (int,int)int (uint,uint)uint
_/_ (double,double)double (int,int)int (uint,uint)uint
_%_ (int,int)int (uint,uint)uint
-_ (double)double (int)int
@in (A,list<A>)bool (A,map<A,B>)bool
_[_] (list<A>,int)A (map<A,B>,A)B (optional<list<A>>,int)optional<A> (optional<map<A,B>>,A)optional<B>
_[?_] (list<A>,int)optional<A> (map<A,B>,A)optional<B> (optional<list<A>>,int)optional<A> (optional<map<A,B>>,A)optional<B>
size (bytes)int (list<A>)int (map<A,B>)int (string)int bytes.()int list<A>.()int map<A,B>.()int string.()int
bool (bool)bool (string)bool
bytes (bytes)bytes (string)bytes
double (double)double (int)double (string)double (uint)double
duration (duration)duration (int)duration (string)duration
dyn (A)dyn
int (int)int (double)int (duration)int (string)int (timestamp)int (uint)int
string (string)string (bool)string (bytes)string (double)string (duration)string (int)string (timestamp)string (uint)string
timestamp (timestamp)timestamp (int)timestamp (string)timestamp
type (A)type<A>
uint (uint)uint (double)uint (int)uint (string)uint
contains string.(string)bool
endsWith string.(string)bool
startsWith string.(string)bool
matches (string,string)bool string.(string)bool
getDate timestamp.()int timestamp.(string)int
getDayOfMonth timestamp.()int timestamp.(string)int
getDayOfWeek timestamp.()int timestamp.(string)int
getDayOfYear timestamp.()int timestamp.(string)int
getFullYear timestamp.()int timestamp.(string)int
getHours timestamp.()int timestamp.(string)int duration.()int
getMilliseconds timestamp.()int timestamp.(string)int duration.()int
getMinutes timestamp.()int timestamp.(string)int duration.()int
getMonth timestamp.()int timestamp.(string)int
getSeconds timestamp.()int timestamp.(string)int duration.()int
optional.of (A)optional<A>
optional.ofNonZeroValue (A)optional<A>
optional.none ()optional<A>
optional.unwrap (list<optional<A>>)list<A>
unwrapOpt list<optional<A>>.()list<A>
hasValue optional<A>.()bool
value optional<A>.()A
or optional<A>.(optional<A>)optional<A>
orValue optional<A>.(A)A
charAt string.(int)string
format string.(list<dyn>)string
indexOf string.(string)int string.(string,int)int list<A>.(A)int
lastIndexOf string.(string)int string.(string,int)int list<A>.(A)int
join list<string>.()string list<string>.(string)string
lowerAscii string.()string
upperAscii string.()string
replace string.(string,string)string string.(string,string,int)string
split string.(string)list<string> string.(string,int)list<string>
strings.quote (string)string
substring string.(int)string string.(int,int)string
trim string.()string
sets.contains (list<A>,list<A>)bool
sets.equivalent (list<A>,list<A>)bool
sets.intersects (list<A>,list<A>)bool
cel.@mapInsert (map<A,B>,A,B)map<A,B> (map<A,B>,map<A,B>)map<A,B>
isSorted list<int>.()bool list<uint>.()bool list<double>.()bool list<bool>.()bool list<duration>.()bool list<timestamp>.()bool list<string>.()bool list<bytes>.()bool
sum list<int>.()int list<uint>.()uint list<double>.()double list<duration>.()duration
max list<int>.()int list<uint>.()uint list<double>.()double list<bool>.()bool list<duration>.()duration list<timestamp>.()timestamp list<string>.()string list<bytes>.()bytes
min list<int>.()int list<uint>.()uint list<double>.()double list<bool>.()bool list<duration>.()duration list<timestamp>.()timestamp list<string>.()string list<bytes>.()bytes
includes list<A>.(A)bool
distinct list<A>.()list<A>
flatten list<list<A>>.()list<A> list<dyn>.(int)list<dyn>
lists.range (int)list<int>
reverse list<A>.()list<A>
first list<A>.()optional<A>
last list<A>.()optional<A>
slice list<A>.(int,int)list<A>
sort list<int>.()list<int> list<uint>.()list<uint> list<double>.()list<double> list<bool>.()list<bool> list<duration>.()list<duration> list<timestamp>.()list<timestamp> list<string>.()list<string> list<bytes>.()list<bytes>
@sortByAssociatedKeys list<A>.(list<int>)list<A> list<A>.(list<uint>)list<A> list<A>.(list<double>)list<A> list<A>.(list<bool>)list<A> list<A>.(list<duration>)list<A> list<A>.(list<timestamp>)list<A> list<A>.(list<string>)list<A> list<A>.(list<bytes>)list<A>
find string.(string)string
findAll string.(string)list<string> string.(string,int)list<string>
url (string)kubernetes.URL
isURL (string)bool
getScheme kubernetes.URL.()string
getHost kubernetes.URL.()string
getHostname kubernetes.URL.()string
getPort kubernetes.URL.()string
getEscapedPath kubernetes.URL.()string
getQuery kubernetes.URL.()map<string,list<string>>
ip (string)net.IP net.CIDR.()net.IP
isIP (string)bool
ip.isCanonical (string)bool
family net.IP.()int
isUnspecified net.IP.()bool
isLoopback net.IP.()bool
isLinkLocalMulticast net.IP.()bool
isLinkLocalUnicast net.IP.()bool
isGlobalUnicast net.IP.()bool
cidr (string)net.CIDR
isCIDR (string)bool
containsIP net.CIDR.(string)bool net.CIDR.(net.IP)bool
containsCIDR net.CIDR.(string)bool net.CIDR.(net.CIDR)bool
masked net.CIDR.()net.CIDR
prefixLength net.CIDR.()int
quantity (string)kubernetes.Quantity
isQuantity (string)bool
sign kubernetes.Quantity.()int
isGreaterThan kubernetes.Quantity.(kubernetes.Quantity)bool kubernetes.Semver.(kubernetes.Semver)bool
isLessThan kubernetes.Quantity.(kubernetes.Quantity)bool kubernetes.Semver.(kubernetes.Semver)bool
compareTo kubernetes.Quantity.(kubernetes.Quantity)int kubernetes.Semver.(kubernetes.Semver)int
asApproximateFloat kubernetes.Quantity.()double
asInteger kubernetes.Quantity.()int
isInteger kubernetes.Quantity.()bool
add kubernetes.Quantity.(kubernetes.Quantity)kubernetes.Quantity kubernetes.Quantity.(int)kubernetes.Quantity
sub kubernetes.Quantity.(kubernetes.Quantity)kubernetes.Quantity kubernetes.Quantity.(int)kubernetes.Quantity
semver (string)kubernetes.Semver (string,bool)kubernetes.Semver
isSemver (string)bool (string,bool)bool
major kubernetes.Semver.()int
minor kubernetes.Semver.()int
patch kubernetes.Semver.()int
format.named (string)optional<kubernetes.NamedFormat>
validate kubernetes.NamedFormat.(string)optional<list<string>>
path kubernetes.authorization.Authorizer.(string)kubernetes.authorization.PathCheck
group kubernetes.authorization.Authorizer.(string)kubernetes.authorization.GroupCheck
serviceAccount kubernetes.authorization.Authorizer.(string,string)kubernetes.authorization.Authorizer
resource kubernetes.authorization.GroupCheck.(string)kubernetes.authorization.ResourceCheck
subresource kubernetes.authorization.ResourceCheck.(string)kubernetes.authorization.ResourceCheck
namespace kubernetes.authorization.ResourceCheck.(string)kubernetes.authorization.ResourceCheck
name kubernetes.authorization.ResourceCheck.(string)kubernetes.authorization.ResourceCheck
fieldSelector kubernetes.authorization.ResourceCheck.(string)kubernetes.authorization.ResourceCheck
labelSelector kubernetes.authorization.ResourceCheck.(string)kubernetes.authorization.ResourceCheck
check kubernetes.authorization.PathCheck.(string)kubernetes.authorization.Decision kubernetes.authorization.ResourceCheck.(string)kubernetes.authorization.Decision
allowed kubernetes.authorization.Decision.()bool
reason kubernetes.authorization.Decision.()string
errored kubernetes.authorization.Decision.()bool
error kubernetes.authorization.Decision.()string
jsonpatch.escapeKey (string)string
";

/// The named formats, functions without arguments: `format.dns1123Label()`.
pub(crate) const FORMATS: [&str; 13] = [
    "dns1123Label", "dns1123Subdomain", "dns1035Label", "qualifiedName", "dns1123LabelPrefix", "dns1123SubdomainPrefix", "dns1035LabelPrefix", "labelValue",
    "uri", "uuid", "byte", "date", "datetime",
];

/// The overloads of a function.
pub(crate) fn function(name: &str) -> Option<&'static [Overload]> {
    static ALL: OnceLock<HashMap<String, Vec<Overload>>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut all: HashMap<String, Vec<Overload>> = HashMap::new();
        for line in TABLE.lines().filter(|l| !l.is_empty()) {
            let mut words = line.split(' ');
            let name = words.next().unwrap_or_default();
            all.insert(name.to_owned(), words.map(overload).collect());
        }
        for f in FORMATS {
            all.insert(format!("format.{f}"), vec![overload("()kubernetes.NamedFormat")]);
        }
        all
    })
    .get(name)
    .map(Vec::as_slice)
}

fn overload(sig: &'static str) -> Overload {
    let open = sig.find('(').unwrap_or(0);
    let close = sig.rfind(')').unwrap_or(0);
    let receiver = sig[..open].trim_end_matches('.');
    let mut args: Vec<Type> = Vec::new();
    if !receiver.is_empty() {
        args.push(parse(receiver));
    }
    args.extend(split(&sig[open + 1..close]).into_iter().map(parse));
    Overload { member: !receiver.is_empty(), args, result: parse(&sig[close + 1..]) }
}

/// Splits at commas outside of `<>`.
fn split(text: &'static str) -> Vec<&'static str> {
    let (mut depth, mut from, mut out) = (0, 0, Vec::new());
    for (i, c) in text.char_indices() {
        match c {
            '<' => depth += 1,
            '>' => depth -= 1,
            ',' if depth == 0 => {
                out.push(&text[from..i]);
                from = i + 1;
            }
            _ => {}
        }
    }
    if !text.is_empty() {
        out.push(&text[from..]);
    }
    out
}

fn parse(text: &'static str) -> Type {
    if let Some((outer, inner)) = text.strip_suffix('>').and_then(|t| t.split_once('<')) {
        let mut parts = split(inner).into_iter().map(parse);
        let mut next = || parts.next().unwrap_or(Type::Dyn);
        return match outer {
            "list" => Type::list(next()),
            "map" => {
                let key = next();
                Type::Map(Arc::new(key), Arc::new(Decl::of(next())))
            }
            "optional" => Type::Optional(Arc::new(next())),
            _ => Type::Type(Arc::new(next())),
        };
    }
    match text {
        "A" | "B" => Type::Param(text),
        other => named(other).unwrap_or(Type::Opaque(other)),
    }
}

/// A type of the language itself by its name in declarations.
fn named(name: &str) -> Option<Type> {
    Some(match name {
        "dyn" => Type::Dyn,
        "null" => Type::Null,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "duration" => Type::Duration,
        "timestamp" => Type::Timestamp,
        _ => return None,
    })
}

/// What a type's name means in an expression: `int`, `kubernetes.URL`.
pub(crate) fn type_name(name: &str) -> Option<Type> {
    Some(match name {
        "null_type" => Type::Null,
        "list" => Type::list(Type::Dyn),
        "map" => Type::map(Type::Dyn, Type::Dyn),
        "type" => Type::Type(Arc::new(Type::Dyn)),
        "optional_type" => Type::Optional(Arc::new(Type::Dyn)),
        "google.protobuf.Duration" => Type::Duration,
        "google.protobuf.Timestamp" => Type::Timestamp,
        "kubernetes.URL" => Type::Opaque("kubernetes.URL"),
        "kubernetes.Quantity" => Type::Opaque("kubernetes.Quantity"),
        "kubernetes.Semver" => Type::Opaque("kubernetes.Semver"),
        "net.IP" => Type::Opaque("net.IP"),
        "net.CIDR" => Type::Opaque("net.CIDR"),
        "dyn" | "null" | "duration" | "timestamp" => return None,
        other => return named(other),
    })
}
