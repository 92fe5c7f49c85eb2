//! Rules and the expressions they are made of.

use super::{IpFamily, R0, VERDICT_REG};
use crate::netlink::Buf;

/// What happens to a packet.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// Let through (this chain's hook).
    Accept,
    /// Dropped.
    Drop,
    /// On in another chain, and back.
    Jump(String),
    /// On in another chain for good.
    Goto(String),
    /// Back to the calling chain.
    Return,
}

impl Verdict {
    pub(super) fn encode(&self, b: &mut Buf) {
        let (code, chain) = match self {
            Self::Drop => (0, None),
            Self::Accept => (1, None),
            Self::Jump(c) => (-3i32, Some(c)),
            Self::Goto(c) => (-4, Some(c)),
            Self::Return => (-5, None),
        };
        b.nest(2, |b| {
            b.be32(1, code.cast_unsigned());
            if let Some(c) = chain {
                b.text(2, c);
            }
        });
    }
}

/// A map without a name, the property of one rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AnonMap {
    /// Datatype of the keys.
    pub key_type: u32,
    /// Bytes of a key.
    pub key_len: u32,
    /// Datatype of the values, as [`super::datatype::VERDICT`].
    pub data_type: u32,
    /// Bytes of a value (nothing for verdicts).
    pub data_len: u32,
    /// Its content.
    pub elements: Vec<(Vec<u8>, Write)>,
}

/// The value of a map's element.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Write {
    /// Bytes.
    Data(Vec<u8>),
    /// A verdict.
    Verdict(Verdict),
}

/// One expression of a rule. Registers are numbered from [`R0`] in steps of 32 bits; the fields
/// are those of the kernel's expression.
#[allow(missing_docs)]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Expr {
    /// Loads a property of the packet (the kernel's NFT_META number).
    Meta { key: u32, dreg: u32 },
    /// Sets a property of the packet.
    SetMeta { key: u32, sreg: u32 },
    /// Loads header bytes (base 1: network, 2: transport).
    Payload { base: u32, offset: u32, len: u32, dreg: u32 },
    /// Goes on if equal, or unequal.
    Cmp { sreg: u32, equal: bool, data: Vec<u8> },
    /// `dreg = sreg & mask ^ xor`
    Bitwise { sreg: u32, dreg: u32, mask: Vec<u8>, xor: Vec<u8> },
    /// Loads a property of the connection (the kernel's NFT_CT number).
    Ct { key: u32, dreg: u32 },
    /// Loads a constant.
    Immediate { dreg: u32, data: Vec<u8> },
    /// Decides.
    Verdict(Verdict),
    /// Goes on if the key is in the set (or not, if inverted); a map's value goes to `dreg`.
    Lookup { set: String, sreg: u32, dreg: Option<u32>, invert: bool },
    /// The same in a map of the rule's own.
    LookupAnon { map: AnonMap, sreg: u32, dreg: u32 },
    /// Puts a key into a set, or renews its timeout.
    Update { set: String, sreg: u32 },
    /// A random number below the modulus.
    Random { dreg: u32, modulus: u32 },
    /// The route type of the source or destination address.
    FibType { source: bool, dreg: u32 },
    /// Rewrites the destination.
    Dnat { family: IpFamily, addr: u32, port: Option<u32> },
    /// Rewrites the source to that of the outgoing interface, with random ports.
    Masquerade,
    /// Answers that the port is unreachable: to TCP (only) by a reset, which the kernel does not
    /// limit in rate as it does ICMP.
    Reject { reset: bool },
}

impl Expr {
    fn name(&self) -> &'static str {
        match self {
            Self::Meta { .. } | Self::SetMeta { .. } => "meta",
            Self::Payload { .. } => "payload",
            Self::Cmp { .. } => "cmp",
            Self::Bitwise { .. } => "bitwise",
            Self::Ct { .. } => "ct",
            Self::Immediate { .. } | Self::Verdict(_) => "immediate",
            Self::Lookup { .. } | Self::LookupAnon { .. } => "lookup",
            Self::Update { .. } => "dynset",
            Self::Random { .. } => "numgen",
            Self::FibType { .. } => "fib",
            Self::Dnat { .. } => "nat",
            Self::Masquerade => "masq",
            Self::Reject { .. } => "reject",
        }
    }

    /// Encodes into a rule's list; `anon` is the id of this expression's map, if it has one.
    pub(super) fn encode(&self, b: &mut Buf, anon: u32) {
        b.nest(1, |b| {
            b.text(1, self.name());
            b.nest(2, |b| self.encode_data(b, anon));
        });
    }

    fn encode_data(&self, b: &mut Buf, anon: u32) {
        let value = |b: &mut Buf, kind: u16, data: &[u8]| b.nest(kind, |b| b.attr(1, data));
        match self {
            Self::Meta { key, dreg } => {
                b.be32(1, *dreg);
                b.be32(2, *key);
            }
            Self::SetMeta { key, sreg } => {
                b.be32(2, *key);
                b.be32(3, *sreg);
            }
            Self::Payload { base, offset, len, dreg } => {
                b.be32(1, *dreg);
                b.be32(2, *base);
                b.be32(3, *offset);
                b.be32(4, *len);
            }
            Self::Cmp { sreg, equal, data } => {
                b.be32(1, *sreg);
                b.be32(2, u32::from(!*equal));
                value(b, 3, data);
            }
            Self::Bitwise { sreg, dreg, mask, xor } => {
                b.be32(1, *sreg);
                b.be32(2, *dreg);
                b.be32(3, u32::try_from(mask.len()).unwrap_or(4));
                value(b, 4, mask);
                value(b, 5, xor);
            }
            Self::Ct { key, dreg } => {
                b.be32(1, *dreg);
                b.be32(2, *key);
            }
            Self::Immediate { dreg, data } => {
                b.be32(1, *dreg);
                value(b, 2, data);
            }
            Self::Verdict(v) => {
                b.be32(1, VERDICT_REG);
                b.nest(2, |b| v.encode(b));
            }
            Self::Lookup { set, sreg, dreg, invert } => {
                b.text(1, set);
                b.be32(2, *sreg);
                if let Some(d) = dreg {
                    b.be32(3, *d);
                }
                if *invert {
                    b.be32(5, 1);
                }
            }
            Self::LookupAnon { sreg, dreg, .. } => {
                b.text(1, "__map%d");
                b.be32(2, *sreg);
                b.be32(3, *dreg);
                b.be32(4, anon);
            }
            Self::Update { set, sreg } => {
                b.text(1, set);
                b.be32(3, 1);
                b.be32(4, *sreg);
            }
            Self::Random { dreg, modulus } => {
                b.be32(1, *dreg);
                b.be32(2, *modulus);
                b.be32(3, 1);
                b.be32(4, 0);
            }
            Self::FibType { source, dreg } => {
                b.be32(1, *dreg);
                b.be32(2, 3);
                b.be32(3, if *source { 1 } else { 2 });
            }
            Self::Dnat { family, addr, port } => {
                b.be32(1, 1);
                b.be32(2, u32::from(family.nfproto()));
                b.be32(3, *addr);
                if let Some(p) = port {
                    b.be32(5, *p);
                }
            }
            Self::Masquerade => b.be32(1, 1 << 4),
            Self::Reject { reset: true } => {
                b.be32(1, 1);
                b.attr(2, &[0]);
            }
            Self::Reject { reset: false } => {
                b.be32(1, 2);
                b.attr(2, &[1]);
            }
        }
    }
}

/// A rule, built left to right.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Rule(pub Vec<Expr>);

const META_MARK: u32 = 3;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
const RTN_LOCAL: u32 = 2;

impl Rule {
    /// A rule for all packets.
    pub fn any() -> Self {
        Self::default()
    }

    /// A rule for packets of one IP version.
    pub fn family(f: IpFamily) -> Self {
        Self::any()
            .with(Expr::Meta { key: META_NFPROTO, dreg: R0 })
            .with(Expr::Cmp { sreg: R0, equal: true, data: vec![f.nfproto()] })
    }

    /// One more expression.
    #[must_use]
    pub fn with(mut self, e: Expr) -> Self {
        self.0.push(e);
        self
    }

    /// Only from this interface.
    #[must_use]
    pub fn iif(self, name: &str) -> Self {
        self.with(Expr::Meta { key: META_IIFNAME, dreg: R0 })
            .with(Expr::Cmp { sreg: R0, equal: true, data: super::ifname(name) })
    }

    /// Only to this interface, or only to others.
    #[must_use]
    pub fn oif(self, name: &str, equal: bool) -> Self {
        self.with(Expr::Meta { key: META_OIFNAME, dreg: R0 })
            .with(Expr::Cmp { sreg: R0, equal, data: super::ifname(name) })
    }

    /// Loads the source address.
    #[must_use]
    pub fn load_saddr(self, f: IpFamily, dreg: u32) -> Self {
        self.with(Expr::Payload { base: 1, offset: f.saddr(), len: f.addr_len(), dreg })
    }

    /// Loads the destination address.
    #[must_use]
    pub fn load_daddr(self, f: IpFamily, dreg: u32) -> Self {
        self.with(Expr::Payload { base: 1, offset: f.daddr(), len: f.addr_len(), dreg })
    }

    /// Only packets of this protocol.
    #[must_use]
    pub fn protocol(self, p: crate::Protocol) -> Self {
        self.with(Expr::Meta { key: META_L4PROTO, dreg: R0 })
            .with(Expr::Cmp { sreg: R0, equal: true, data: vec![p.number()] })
    }

    /// Loads protocol and destination port into two registers.
    #[must_use]
    pub fn load_proto_port(self, dreg: u32) -> Self {
        self.with(Expr::Meta { key: META_L4PROTO, dreg })
            .with(Expr::Payload { base: 2, offset: 2, len: 2, dreg: dreg + 1 })
    }

    /// Loads `daddr . protocol . port`.
    #[must_use]
    pub fn load_service(self, f: IpFamily) -> Self {
        self.load_daddr(f, R0).load_proto_port(R0 + f.regs())
    }

    fn addr_in(self, f: IpFamily, net: std::net::IpAddr, prefix: u8, equal: bool) -> Self {
        let bytes = super::ip_bytes(net);
        if prefix == 0 {
            return self;
        }
        let mask: Vec<u8> = (0..bytes.len())
            .map(|i| {
                let bits = usize::from(prefix).saturating_sub(i * 8).min(8);
                u8::try_from(0xff00u32 >> bits & 0xff).unwrap_or(0)
            })
            .collect();
        let data: Vec<u8> = bytes.iter().zip(&mask).map(|(a, m)| a & m).collect();
        let n = f.addr_len() as usize;
        self.with(Expr::Bitwise { sreg: R0, dreg: R0, mask, xor: vec![0; n] })
            .with(Expr::Cmp { sreg: R0, equal, data })
    }

    /// Only from this network, or only from others.
    #[must_use]
    pub fn saddr_in(self, net: std::net::IpAddr, prefix: u8, equal: bool) -> Self {
        let f = IpFamily::of(net);
        self.load_saddr(f, R0).addr_in(f, net, prefix, equal)
    }

    /// Only to this network, or only to others.
    #[must_use]
    pub fn daddr_in(self, net: std::net::IpAddr, prefix: u8, equal: bool) -> Self {
        let f = IpFamily::of(net);
        self.load_daddr(f, R0).addr_in(f, net, prefix, equal)
    }

    /// Only from an address of this host.
    #[must_use]
    pub fn from_local(self) -> Self {
        self.with(Expr::FibType { source: true, dreg: R0 })
            .with(Expr::Cmp { sreg: R0, equal: true, data: RTN_LOCAL.to_ne_bytes().to_vec() })
    }

    /// Only to an address of this host.
    #[must_use]
    pub fn to_local(self) -> Self {
        self.with(Expr::FibType { source: false, dreg: R0 })
            .with(Expr::Cmp { sreg: R0, equal: true, data: RTN_LOCAL.to_ne_bytes().to_vec() })
    }

    fn ct(self, key: u32, bits: u32, set: bool) -> Self {
        self.with(Expr::Ct { key, dreg: R0 })
            .with(Expr::Bitwise {
                sreg: R0,
                dreg: R0,
                mask: bits.to_ne_bytes().to_vec(),
                xor: vec![0; 4],
            })
            .with(Expr::Cmp { sreg: R0, equal: !set, data: vec![0; 4] })
    }

    /// Only packets that begin a connection.
    #[must_use]
    pub fn ct_new(self) -> Self {
        self.ct(CT_STATE, 8, true)
    }

    /// Only packets that fit no connection.
    #[must_use]
    pub fn ct_invalid(self) -> Self {
        self.ct(CT_STATE, 1, true)
    }

    /// Only packets of no known connection.
    #[must_use]
    pub fn ct_unknown(self) -> Self {
        self.ct(CT_STATE, 2 | 4, false)
    }

    /// Only connections whose destination was rewritten.
    #[must_use]
    pub fn ct_dnat(self) -> Self {
        self.ct(CT_STATUS, 32, true)
    }

    /// Only packets that carry a mark bit.
    #[must_use]
    pub fn marked(self, bit: u32) -> Self {
        self.with(Expr::Meta { key: META_MARK, dreg: R0 })
            .with(Expr::Bitwise {
                sreg: R0,
                dreg: R0,
                mask: bit.to_ne_bytes().to_vec(),
                xor: vec![0; 4],
            })
            .with(Expr::Cmp { sreg: R0, equal: false, data: vec![0; 4] })
    }

    /// Sets or clears a mark bit.
    #[must_use]
    pub fn set_mark(self, bit: u32, on: bool) -> Self {
        self.with(Expr::Meta { key: META_MARK, dreg: R0 })
            .with(Expr::Bitwise {
                sreg: R0,
                dreg: R0,
                mask: (!bit).to_ne_bytes().to_vec(),
                xor: (if on { bit } else { 0 }).to_ne_bytes().to_vec(),
            })
            .with(Expr::SetMeta { key: META_MARK, sreg: R0 })
    }

    /// Only if the key from `R0` on is in this set.
    #[must_use]
    pub fn in_set(self, set: &str, invert: bool) -> Self {
        self.with(Expr::Lookup { set: set.to_owned(), sreg: R0, dreg: None, invert })
    }

    /// Decides by this verdict map with the key from `R0` on.
    #[must_use]
    pub fn vmap(self, map: &str) -> Self {
        self.with(Expr::Lookup {
            set: map.to_owned(),
            sreg: R0,
            dreg: Some(VERDICT_REG),
            invert: false,
        })
    }

    /// Rewrites the destination to the `address . port` that this map has for the key.
    #[must_use]
    pub fn dnat_map(self, f: IpFamily, map: &str) -> Self {
        self.with(Expr::Lookup { set: map.to_owned(), sreg: R0, dreg: Some(R0), invert: false })
            .with(Expr::Dnat { family: f, addr: R0, port: Some(R0 + f.regs()) })
    }

    /// Rewrites the destination.
    #[must_use]
    pub fn dnat(self, ip: std::net::IpAddr, port: u16) -> Self {
        let f = IpFamily::of(ip);
        let port_reg = R0 + f.regs();
        self.with(Expr::Immediate { dreg: R0, data: super::ip_bytes(ip) })
            .with(Expr::Immediate { dreg: port_reg, data: port.to_be_bytes().to_vec() })
            .with(Expr::Dnat { family: f, addr: R0, port: Some(port_reg) })
    }

    /// Ends with a verdict.
    #[must_use]
    pub fn verdict(self, v: Verdict) -> Self {
        self.with(Expr::Verdict(v))
    }

    /// Ends in another chain.
    #[must_use]
    pub fn jump(self, chain: &str) -> Self {
        self.verdict(Verdict::Jump(chain.to_owned()))
    }

    /// Goes to another chain for good.
    #[must_use]
    pub fn goto(self, chain: &str) -> Self {
        self.verdict(Verdict::Goto(chain.to_owned()))
    }
}
