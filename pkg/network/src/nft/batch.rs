//! The transaction.

use super::expr::{AnonMap, Expr, Rule, Write};
use super::datatype;
use crate::Error;
use crate::netlink::{Buf, CREATE, Socket};

const INET: u8 = 1;
const APPEND: u16 = 0x800;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEWTABLE: u16 = 0xa00;
const DELTABLE: u16 = 0xa02;
const NEWCHAIN: u16 = 0xa03;
const DELCHAIN: u16 = 0xa05;
const NEWRULE: u16 = 0xa06;
const DELRULE: u16 = 0xa08;
const NEWSET: u16 = 0xa09;
const DELSET: u16 = 0xa0b;
const NEWELEM: u16 = 0xa0c;
const DELELEM: u16 = 0xa0e;
const BATCH_BODY: [u8; 4] = [0, 0, 0, 10];
const BODY: [u8; 4] = [INET, 0, 0, 0];

const ANONYMOUS: u32 = 1;
const CONSTANT: u32 = 2;
const MAP: u32 = 8;
const TIMEOUT: u32 = 16;
const EVAL: u32 = 32;

/// What a base chain does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainType {
    /// Filters.
    Filter,
    /// Rewrites addresses; sees the first packet of a connection only.
    Nat,
}

/// Where a base chain sees packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Arrived, not yet routed.
    Prerouting = 0,
    /// To this host.
    Input = 1,
    /// Through this host.
    Forward = 2,
    /// From this host.
    Output = 3,
    /// About to leave.
    Postrouting = 4,
}

/// A named set or map.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SetSpec {
    /// Its name.
    pub name: String,
    /// Datatype of its keys.
    pub key_type: u32,
    /// Bytes of a key.
    pub key_len: u32,
    /// Datatype and bytes of its values, if it is a map.
    pub data: Option<(u32, u32)>,
    /// For a set that rules put keys into: seconds until a key leaves.
    pub timeout: Option<u32>,
}

/// A transaction on one table.
#[derive(Debug)]
pub struct Batch {
    buf: Buf,
    table: String,
    sets: u32,
}

impl Batch {
    /// An empty transaction on the table of this name, family inet.
    pub fn new(table: &str) -> Self {
        let mut buf = Buf::new();
        buf.message(BATCH_BEGIN, 0, &BATCH_BODY, |_| {});
        Self { buf, table: table.to_owned(), sets: 0 }
    }

    /// Whether nothing has been asked.
    pub fn is_empty(&self) -> bool {
        self.buf.count() == 1
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.buf.bytes().len()
    }

    fn message(&mut self, kind: u16, flags: u16, attrs: impl FnOnce(&mut Buf)) {
        let table = self.table.clone();
        self.buf.message(kind, flags, &BODY, |b| {
            b.text(1, &table);
            attrs(b);
        });
    }

    /// Makes the table unless it is there.
    pub fn add_table(&mut self) {
        self.message(NEWTABLE, CREATE, |_| {});
    }

    /// Deletes the table with all in it; it must be there.
    pub fn delete_table(&mut self) {
        self.message(DELTABLE, 0, |_| {});
    }

    /// Makes the table anew and empty, whether or not it was there.
    pub fn reset_table(&mut self) {
        self.add_table();
        self.delete_table();
        self.add_table();
    }

    /// Makes a chain unless it is there.
    pub fn add_chain(&mut self, name: &str) {
        self.message(NEWCHAIN, CREATE, |b| b.text(3, name));
    }

    /// Makes a base chain that accepts what its rules leave.
    pub fn add_base_chain(&mut self, name: &str, kind: ChainType, hook: Hook, priority: i32) {
        self.message(NEWCHAIN, CREATE, |b| {
            b.text(3, name);
            b.nest(4, |b| {
                b.be32(1, hook as u32);
                b.be32(2, priority.cast_unsigned());
            });
            b.be32(5, 1);
            b.text(7, if kind == ChainType::Nat { "nat" } else { "filter" });
        });
    }

    /// Removes a chain's rules.
    pub fn flush_chain(&mut self, name: &str) {
        self.message(DELRULE, 0, |b| b.text(2, name));
    }

    /// Deletes a chain, which nothing may lead to any more.
    pub fn delete_chain(&mut self, name: &str) {
        self.message(DELCHAIN, 0, |b| b.text(3, name));
    }

    /// Appends a rule to a chain.
    pub fn add_rule(&mut self, chain: &str, rule: &Rule) {
        let mut ids = Vec::with_capacity(rule.0.len());
        for e in &rule.0 {
            ids.push(match e {
                Expr::LookupAnon { map, .. } => self.add_anonymous(map),
                _ => 0,
            });
        }
        self.message(NEWRULE, CREATE | APPEND, |b| {
            b.text(2, chain);
            b.nest(4, |b| {
                for (e, id) in rule.0.iter().zip(ids) {
                    e.encode(b, id);
                }
            });
        });
    }

    fn add_anonymous(&mut self, m: &AnonMap) -> u32 {
        self.sets += 1;
        let id = self.sets;
        self.message(NEWSET, CREATE, |b| {
            b.text(2, "__map%d");
            b.be32(3, ANONYMOUS | CONSTANT | MAP);
            b.be32(4, m.key_type);
            b.be32(5, m.key_len);
            b.be32(6, m.data_type);
            if m.data_type != datatype::VERDICT {
                b.be32(7, m.data_len);
            }
            b.be32(10, id);
        });
        let elements: Vec<_> = m.elements.iter().map(|(k, v)| (k.as_slice(), Some(v))).collect();
        self.elements(NEWELEM, "__map%d", id, &elements);
        id
    }

    /// Makes a set or map unless it is there.
    pub fn add_set(&mut self, s: &SetSpec) {
        self.sets += 1;
        let id = self.sets;
        self.message(NEWSET, CREATE, |b| {
            b.text(2, &s.name);
            let map = if s.data.is_some() { MAP } else { 0 };
            let timeout = if s.timeout.is_some() { TIMEOUT | EVAL } else { 0 };
            b.be32(3, map | timeout);
            b.be32(4, s.key_type);
            b.be32(5, s.key_len);
            if let Some((kind, len)) = s.data {
                b.be32(6, kind);
                if kind != datatype::VERDICT {
                    b.be32(7, len);
                }
            }
            b.be32(10, id);
            if let Some(t) = s.timeout {
                b.attr(11, &(u64::from(t) * 1000).to_be_bytes());
            }
        });
    }

    /// Deletes a set or map, which no rule may use any more.
    pub fn delete_set(&mut self, name: &str) {
        self.message(DELSET, 0, |b| b.text(2, name));
    }

    /// Adds keys to a set.
    pub fn add_keys<'a>(&mut self, set: &str, keys: impl IntoIterator<Item = &'a [u8]>) {
        let list: Vec<_> = keys.into_iter().map(|k| (k, None)).collect();
        self.elements(NEWELEM, set, 0, &list);
    }

    /// Adds keys with values to a map; a key there already with another value is `EEXIST`.
    pub fn add_entries<'a>(
        &mut self,
        map: &str,
        entries: impl IntoIterator<Item = (&'a [u8], &'a Write)>,
    ) {
        let list: Vec<_> = entries.into_iter().map(|(k, w)| (k, Some(w))).collect();
        self.elements(NEWELEM, map, 0, &list);
    }

    /// Removes keys; one that is not there is `ENOENT`.
    pub fn delete_keys<'a>(&mut self, set: &str, keys: impl IntoIterator<Item = &'a [u8]>) {
        let list: Vec<_> = keys.into_iter().map(|k| (k, None)).collect();
        self.elements(DELELEM, set, 0, &list);
    }

    fn elements(&mut self, kind: u16, set: &str, id: u32, list: &[(&[u8], Option<&Write>)]) {
        let flags = if kind == NEWELEM { CREATE } else { 0 };
        // An attribute is at most 64 KiB; an element with names in it stays below 300 bytes.
        for part in list.chunks(200) {
            self.message(kind, flags, |b| {
                b.text(2, set);
                if id != 0 {
                    b.be32(4, id);
                }
                b.nest(3, |b| {
                    for (key, value) in part {
                        b.nest(1, |b| {
                            b.nest(1, |b| b.attr(1, key));
                            match value {
                                Some(Write::Data(d)) => b.nest(2, |b| b.attr(1, d)),
                                Some(Write::Verdict(v)) => b.nest(2, |b| v.encode(b)),
                                None => {}
                            }
                        });
                    }
                });
            });
        }
    }

    /// Carries the transaction out.
    ///
    /// # Errors
    /// The kernel's first; nothing has changed then.
    pub fn commit(mut self, socket: &mut Socket, what: &str) -> Result<(), Error> {
        if self.is_empty() {
            return Ok(());
        }
        self.buf.acknowledge_last();
        self.buf.message(BATCH_END, 0, &BATCH_BODY, |_| {});
        socket.request(&self.buf, what).map(|_| ())
    }
}
