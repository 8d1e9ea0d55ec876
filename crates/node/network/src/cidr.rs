//! IPv4 address ranges.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An IPv4 network, host bits zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    base: u32,
    bits: u8,
}

/// The text is not an IPv4 CIDR.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not an IPv4 range such as 10.244.0.0/16")]
pub struct ParseCidrError(String);

impl Cidr {
    /// The length of the prefix, 0 to 32.
    pub fn prefix_len(&self) -> u8 {
        self.bits
    }

    /// The first address, which names the network.
    pub fn network(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.base)
    }

    /// How many addresses the range holds.
    pub fn size(&self) -> u64 {
        1u64 << (32 - u32::from(self.bits))
    }

    /// The address `offset` places after the first; `None` beyond the end.
    pub fn nth(&self, offset: u64) -> Option<Ipv4Addr> {
        if offset >= self.size() {
            return None;
        }
        u32::try_from(offset).ok().map(|offset| Ipv4Addr::from(self.base + offset))
    }

    /// Where `address` lies in the range; `None` outside it.
    pub fn offset_of(&self, address: Ipv4Addr) -> Option<u64> {
        let offset = u32::from(address).checked_sub(self.base)?;
        (u64::from(offset) < self.size()).then_some(u64::from(offset))
    }

    /// Whether the address lies in the range.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        self.offset_of(address).is_some()
    }

    /// Whether the two ranges share an address.
    pub fn overlaps(&self, other: &Cidr) -> bool {
        self.contains(other.network()) || other.contains(self.network())
    }
}

impl FromStr for Cidr {
    type Err = ParseCidrError;

    fn from_str(text: &str) -> Result<Self, ParseCidrError> {
        let wrong = || ParseCidrError(text.to_owned());
        let (address, bits) = text.split_once('/').ok_or_else(wrong)?;
        let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
        let bits: u8 = bits.parse().map_err(|_| wrong())?;
        if bits > 32 {
            return Err(wrong());
        }
        let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
        Ok(Cidr { base: u32::from(address) & mask, bits })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_masks() {
        let cidr: Cidr = "10.244.3.7/24".parse().unwrap();
        assert_eq!(cidr.to_string(), "10.244.3.0/24");
        assert_eq!(cidr.nth(255), Some(Ipv4Addr::new(10, 244, 3, 255)));
        assert_eq!(cidr.nth(256), None);
        assert_eq!(cidr.offset_of(Ipv4Addr::new(10, 244, 2, 255)), None);
        for wrong in ["", "10.0.0.0", "10.0.0.0/33", "fd00::/8", "10.0.0/8"] {
            assert!(wrong.parse::<Cidr>().is_err(), "{wrong}");
        }
        assert_eq!("1.2.3.4/0".parse::<Cidr>().unwrap().size(), 1 << 32);
    }

    #[test]
    fn overlap_is_symmetric() {
        let wide: Cidr = "10.244.0.0/16".parse().unwrap();
        let inner: Cidr = "10.244.9.0/24".parse().unwrap();
        let other: Cidr = "10.245.0.0/16".parse().unwrap();
        assert!(wide.overlaps(&inner) && inner.overlaps(&wide));
        assert!(!wide.overlaps(&other) && !other.overlaps(&wide));
    }
}
