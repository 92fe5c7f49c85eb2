//! IPv4 ranges.

use crate::Error;
use std::net::Ipv4Addr;

/// An IPv4 range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    /// Its first address.
    pub base: Ipv4Addr,
    /// Its prefix length.
    pub prefix: u8,
}

impl Cidr {
    /// Parses `10.244.0.0/24`; bits behind the prefix are cut off.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the field.
    pub fn parse(field: &'static str, text: &str) -> Result<Self, Error> {
        let invalid =
            |reason: &str| Error::Invalid { field, value: text.into(), reason: reason.into() };
        let (ip, prefix) = text.split_once('/').ok_or_else(|| invalid("not ADDRESS/PREFIX"))?;
        let ip: Ipv4Addr = ip.parse().map_err(|_| invalid("not an IPv4 address"))?;
        let prefix: u8 = prefix.parse().map_err(|_| invalid("not a prefix length"))?;
        if prefix > 32 {
            return Err(invalid("a prefix is at most 32 bits"));
        }
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
        Ok(Self { base: Ipv4Addr::from(u32::from(ip) & mask), prefix })
    }

    /// How many addresses it has.
    pub fn size(self) -> u64 {
        1 << (32 - u32::from(self.prefix))
    }

    /// The address at an offset.
    pub fn at(self, offset: u64) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.base).wrapping_add(u32::try_from(offset).unwrap_or(0)))
    }

    /// Whether an address is in it.
    pub fn contains(self, ip: Ipv4Addr) -> bool {
        self.offset(ip).is_some()
    }

    /// An address's offset, if it is in the range.
    pub fn offset(self, ip: Ipv4Addr) -> Option<u64> {
        let d = u64::from(u32::from(ip)).checked_sub(u64::from(u32::from(self.base)))?;
        (d < self.size()).then_some(d)
    }
}
