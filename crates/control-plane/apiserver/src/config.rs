//! What a server is started with.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use podium_api::kinds::features::Features;
use podium_api::resources::Selection;
use podium_pki::KeyPair;
use podium_pki::tls::ServingCertificate;

use crate::components::Components;
use crate::{admission, authentication, reviews};

/// How a server is started.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen; port 0 takes any free one.
    pub bind: SocketAddr,
    /// The address others reach this server at: the endpoint of the `kubernetes` Service.
    pub advertise_address: IpAddr,
    /// The port others reach it at; `None` is the port listened on.
    pub advertise_port: Option<u16>,
    /// The addresses of Services.
    pub service_cidr: Cidr,
    /// The ports of Services on nodes.
    pub node_ports: RangeInclusive<u16>,
    /// Which versions of the API are served. Source: upstream's `--runtime-config`.
    pub served: Selection,
    /// Which of the features are on that are off by default. Source: upstream's `--feature-gates`.
    pub features: Features,
    /// The serving certificate; replaced in place when it is renewed.
    pub serving: Arc<ServingCertificate>,
    /// Who is believed.
    pub authentication: authentication::Config,
    /// What admission is told.
    pub admission: admission::Config,
    /// How service account tokens are made; `None` makes none.
    pub issuer: Option<reviews::Issuer>,
    /// How this server shows itself to kubelets; `None` refuses logs, exec and the like.
    pub kubelet: Option<KubeletClient>,
    /// The authority (PEM) of client certificates, published in `kube-system/extension-apiserver-authentication`.
    pub client_authority: String,
    /// The authority (PEM) of front proxies, published in the same place with the names and headers that go with it.
    pub proxy_authority: Option<String>,
    /// The other parts of the control plane.
    pub components: Components,
    /// Limits.
    pub limits: Limits,
    /// Writes metrics of the process, such as its build, behind the server's own.
    pub more_metrics: fn(&mut String),
}

/// What kubelets are called with.
#[derive(Clone, Debug)]
pub struct KubeletClient {
    /// Our certificate and key.
    pub pair: KeyPair,
    /// The authority (PEM) that signed the kubelets' serving certificates.
    pub authority: String,
}

/// How much is done at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Together with `reading` the seats of all priority levels. Source: upstream's `--max-mutating-requests-inflight`.
    pub mutating: usize,
    /// Source: upstream's `--max-requests-inflight`.
    pub reading: usize,
    /// How long a request that is not long-running may take; a quarter of it in a queue. Source: upstream's
    /// `--request-timeout`.
    pub request: Duration,
    /// How long a TLS handshake may take: a client that says nothing must not keep a socket.
    pub handshake: Duration,
    /// Open connections.
    pub connections: usize,
    /// How long an event is kept. Source: upstream's `--event-ttl`.
    pub event_ttl: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            mutating: 200,
            reading: 400,
            request: Duration::from_secs(60),
            handshake: Duration::from_secs(10),
            connections: 20_000,
            event_ttl: Duration::from_secs(3600),
        }
    }
}

/// A block of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// A text that is not a block of addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a CIDR block such as 10.96.0.0/16")]
pub struct CidrError(String);

impl Cidr {
    /// Bits of an address of this family.
    fn bits(&self) -> u32 {
        if self.address.is_ipv4() { 32 } else { 128 }
    }

    fn number(address: IpAddr) -> u128 {
        match address {
            IpAddr::V4(v4) => u128::from(u32::from(v4)),
            IpAddr::V6(v6) => u128::from(v6),
        }
    }

    /// How many addresses follow the first, at most 2^20: more are never looked at.
    pub fn size(&self) -> u64 {
        let host_bits = self.bits() - u32::from(self.prefix);
        1 << host_bits.min(20)
    }

    /// The address at an offset from the first.
    pub fn at(&self, offset: u64) -> IpAddr {
        let number = Self::number(self.address) + u128::from(offset);
        match self.address {
            IpAddr::V4(_) => IpAddr::V4(u32::try_from(number & 0xffff_ffff).unwrap_or(0).into()),
            IpAddr::V6(_) => IpAddr::V6(number.into()),
        }
    }

    /// Whether the address is in the block.
    pub fn contains(&self, address: IpAddr) -> bool {
        let shift = self.bits() - u32::from(self.prefix);
        let cut = |address| Self::number(address).checked_shr(shift).unwrap_or(0);
        self.address.is_ipv4() == address.is_ipv4() && cut(self.address) == cut(address)
    }

    /// Whether the address is the block's first or last, which no Service is given.
    pub(crate) fn is_edge(&self, address: IpAddr) -> bool {
        let host_bits = self.bits() - u32::from(self.prefix);
        let hosts = 1u128.checked_shl(host_bits).map_or(u128::MAX, |size| size - 1);
        let offset = Self::number(address) & hosts;
        host_bits > 1 && (offset == 0 || (offset == hosts && address.is_ipv4()))
    }

    /// Whether it is a block of IPv4 addresses.
    pub fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Cidr, CidrError> {
        let bad = || CidrError(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let prefix: u8 = prefix.parse().map_err(|_| bad())?;
        let cidr = Cidr { address, prefix };
        let bits = cidr.bits();
        if u32::from(prefix) > bits || prefix < 8 {
            return Err(bad());
        }
        // The block's first address, whatever host bits were given.
        let shift = bits - u32::from(prefix);
        let number = Self::number(address).checked_shr(shift).unwrap_or(0).checked_shl(shift).unwrap_or(0);
        let address = match address {
            IpAddr::V4(_) => IpAddr::V4(u32::try_from(number).map_err(|_| bad())?.into()),
            IpAddr::V6(_) => IpAddr::V6(number.into()),
        };
        Ok(Cidr { address, prefix })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks() {
        let cidr: Cidr = "10.96.3.7/12".parse().unwrap();
        assert_eq!(cidr.to_string(), "10.96.0.0/12");
        assert_eq!(cidr.at(10).to_string(), "10.96.0.10");
        assert!(cidr.contains("10.111.255.255".parse().unwrap()));
        assert!(!cidr.contains("10.112.0.0".parse().unwrap()));
        assert!(!cidr.contains("fd00::1".parse().unwrap()));
        for (address, edge) in
            [("10.96.0.0", true), ("10.111.255.255", true), ("10.96.0.1", false), ("10.97.0.0", false)]
        {
            assert_eq!(cidr.is_edge(address.parse().unwrap()), edge, "{address}");
        }
        let six: Cidr = "fd00:10:96::/112".parse().unwrap();
        assert_eq!(six.at(1).to_string(), "fd00:10:96::1");
        assert_eq!(six.size(), 65536);
        for bad in ["10.0.0.0", "x/8", "10.0.0.0/33", "0.0.0.0/0"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }
}
