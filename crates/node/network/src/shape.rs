//! How fast a pod may send and receive: a token bucket on each end of its pair, the host's for what it receives, its own for
//! what it sends. Pure but for one request.
//!
//! Source: CNI's capability `bandwidth` and its plugin of that name, whose numbers these are. That one shapes what a pod sends
//! on the host's side, by a further link of type `ifb`; here a pod with `NET_ADMIN` can lift the bound on what it sends.

use netlink_packet_core::DefaultNla;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};
use serde::{Deserialize, Serialize};

/// How long a packet waits for its turn at most before it is dropped, in milliseconds.
const LATENCY_MILLIS: u64 = 25;
/// Above the size of any link's packets with their headers: a bucket that holds less lets none through.
const SMALLEST_BUCKET_BYTES: u64 = 64 << 10;

/// Attributes of the kernel's `sch_tbf`, from `linux/pkt_sched.h`.
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
/// `TC_LINKLAYER_ETHERNET`: the kernel counts by itself and asks for no table of times.
const ETHERNET: u8 = 1;

/// What the runtime says, in bits per second and bits; zero is no bound. containerd writes the names of Go's fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Bandwidth {
    /// Of what the pod receives.
    #[serde(alias = "IngressRate")]
    pub ingress_rate: u64,
    /// What it may receive at once.
    #[serde(alias = "IngressBurst")]
    pub ingress_burst: u64,
    /// Of what the pod sends.
    #[serde(alias = "EgressRate")]
    pub egress_rate: u64,
    /// What it may send at once.
    #[serde(alias = "EgressBurst")]
    pub egress_burst: u64,
}

impl Bandwidth {
    /// Of what the pod receives; None is no bound.
    pub(crate) fn ingress(&self) -> Option<Bucket> {
        Bucket::of(self.ingress_rate, self.ingress_burst)
    }

    /// Of what the pod sends; None is no bound.
    pub(crate) fn egress(&self) -> Option<Bucket> {
        Bucket::of(self.egress_rate, self.egress_burst)
    }
}

/// A token bucket, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    per_second: u64,
    burst: u32,
    /// How much may wait.
    limit: u32,
}

impl Bucket {
    fn of(rate_bits: u64, burst_bits: u64) -> Option<Self> {
        (rate_bits > 0).then(|| {
            // Less than a byte per second would be nothing at all.
            let per_second = (rate_bits / 8).max(1);
            let burst = (burst_bits / 8).max(SMALLEST_BUCKET_BYTES);
            let limit = (per_second / 1000).saturating_mul(LATENCY_MILLIS).saturating_add(burst);
            let narrow = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
            Self { per_second, burst: narrow(burst), limit: narrow(limit) }
        })
    }

    /// The request that makes it the only queue of a link.
    pub(crate) fn on(self, link: u32) -> TcMessage {
        let mut message = TcMessage::default();
        message.header.index = i32::try_from(link).unwrap_or(i32::MAX);
        message.header.parent = TcHandle::ROOT;
        message.attributes = vec![TcAttribute::Kind("tbf".to_owned()), TcAttribute::Options(self.options())];
        message
    }

    fn options(self) -> Vec<TcOption> {
        let narrow_rate = u32::try_from(self.per_second);
        let rate = narrow_rate.unwrap_or(u32::MAX);
        // struct tc_tbf_qopt: the rate, the peak rate, which there is none of, the limit, and two fields that the kernel takes
        // from the attributes below.
        let mut parameters = vec![0, ETHERNET, 0, 0, 0, 0, 0, 0];
        parameters.extend(rate.to_ne_bytes());
        parameters.extend([0; 12]);
        parameters.extend(self.limit.to_ne_bytes());
        parameters.extend([0; 8]);
        let other = |kind, bytes| TcOption::Other(DefaultNla::new(kind, bytes));
        let mut options =
            vec![other(TCA_TBF_PARMS, parameters), other(TCA_TBF_BURST, self.burst.to_ne_bytes().to_vec())];
        if narrow_rate.is_err() {
            options.push(other(TCA_TBF_RATE64, self.per_second.to_ne_bytes().to_vec()));
        }
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets() {
        let bucket = |rate, burst| {
            Bucket::of(rate, burst).map(|bucket| (bucket.per_second, bucket.burst, bucket.limit))
        };
        assert_eq!(bucket(0, 1 << 20), None);
        assert_eq!(bucket(8_000_000, 8 << 20), Some((1_000_000, 1 << 20, 25_000 + (1 << 20))));
        // A packet has to fit.
        assert_eq!(bucket(1000, 0), Some((125, 64 << 10, 64 << 10)));
        assert_eq!(bucket(1_000_000_000_000_000, u64::MAX), Some((125_000_000_000_000, u32::MAX, u32::MAX)));
    }

    #[test]
    fn both_ways_of_writing_it() {
        let read = |text: &str| serde_json::from_str::<Bandwidth>(text).unwrap();
        let ours = read(r#"{"ingressRate": 8, "ingressBurst": 16}"#);
        assert_eq!(
            ours,
            read(r#"{"IngressRate": 8, "IngressBurst": 16, "EgressRate": 0, "EgressBurst": 0}"#)
        );
        assert!(ours.ingress().is_some() && ours.egress().is_none());
    }
}
