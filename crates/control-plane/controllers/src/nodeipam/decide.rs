//! Which part of a range is free.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A range that is divided into parts of equal size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    first: u128,
    ipv6: bool,
    prefix: u8,
    part_prefix: u8,
}

/// A range that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cluster range {cidr:?} {why}")]
pub(crate) struct InvalidRange {
    cidr: String,
    why: String,
}

/// The most parts of one range, as upstream allows: 2 to the power of 16.
const MOST_PARTS_LOG: u8 = 16;

impl Range {
    /// Reads `address/prefix`, to be divided by a mask that depends on the family.
    pub(crate) fn new(cidr: &str, mask_v4: u8, mask_v6: u8) -> Result<Self, InvalidRange> {
        let invalid = |why: &str| InvalidRange { cidr: cidr.to_owned(), why: why.to_owned() };
        let (address, prefix) = parse(cidr).ok_or_else(|| invalid("is not an address range"))?;
        let ipv6 = address.is_ipv6();
        let part_prefix = if ipv6 { mask_v6 } else { mask_v4 };
        if part_prefix < prefix || part_prefix > bits(ipv6) {
            return Err(invalid(&format!("cannot be divided into parts of /{part_prefix}")));
        }
        if part_prefix - prefix > MOST_PARTS_LOG {
            return Err(invalid(&format!("has too many parts of /{part_prefix}")));
        }
        let size = bits(ipv6) - prefix;
        let number = to_number(address);
        let first = if size == 128 { 0 } else { number >> size << size };
        Ok(Self { first, ipv6, prefix, part_prefix })
    }

    /// The range, written out.
    pub(crate) fn cidr(&self) -> String {
        format!("{}/{}", to_address(self.first, self.ipv6), self.prefix)
    }

    /// How many parts there are.
    pub(crate) fn parts(&self) -> u32 {
        1 << (self.part_prefix - self.prefix)
    }

    /// The part of that number, written out.
    pub(crate) fn part(&self, number: u32) -> String {
        let shift = bits(self.ipv6) - self.part_prefix;
        let address = self.first + if shift == 128 { 0 } else { u128::from(number) << shift };
        format!("{}/{}", to_address(address, self.ipv6), self.part_prefix)
    }

    /// The numbers of all parts that `cidr` covers, even in part.
    pub(crate) fn covered(&self, cidr: &str) -> std::ops::Range<u32> {
        let Some((address, prefix)) = parse(cidr).filter(|(address, _)| address.is_ipv6() == self.ipv6)
        else {
            return 0..0;
        };
        let shift = bits(self.ipv6) - self.part_prefix;
        let last_of = |first: u128, prefix: u8| match bits(self.ipv6) - prefix {
            128 => u128::MAX,
            size => first | ((1u128 << size) - 1),
        };
        let (first, last) = (to_number(address), last_of(to_number(address), prefix));
        let end = last_of(self.first, self.prefix);
        if last < self.first || first > end {
            return 0..0;
        }
        let number = |address: u128| {
            let number = if shift == 128 { 0 } else { (address - self.first) >> shift };
            u32::try_from(number).expect("inside a range of at most 2^16 parts")
        };
        number(first.max(self.first))..number(last.min(end)) + 1
    }

    /// The next part after `last` that is not taken, going round. `None` when all are.
    pub(crate) fn free(&self, is_taken: impl Fn(u32) -> bool, last: Option<u32>) -> Option<u32> {
        let (parts, start) = (self.parts(), self.start(last));
        (0..parts).map(|step| (start + step) % parts).find(|number| !is_taken(*number))
    }

    /// How many taken parts were passed by on the way from `last` to `found`.
    pub(crate) fn passed(&self, found: u32, last: Option<u32>) -> u32 {
        let parts = self.parts();
        (found + parts - self.start(last)) % parts
    }

    fn start(&self, last: Option<u32>) -> u32 {
        last.map_or(0, |last| (last + 1) % self.parts())
    }
}

fn parse(cidr: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = cidr.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let prefix: u8 = prefix.parse().ok()?;
    (prefix <= bits(address.is_ipv6())).then_some((address, prefix))
}

fn bits(ipv6: bool) -> u8 {
    if ipv6 { 128 } else { 32 }
}

fn to_number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn to_address(number: u128, ipv6: bool) -> IpAddr {
    if ipv6 {
        IpAddr::V6(Ipv6Addr::from(number))
    } else {
        IpAddr::V4(Ipv4Addr::from(u32::try_from(number).expect("inside an IPv4 range")))
    }
}
