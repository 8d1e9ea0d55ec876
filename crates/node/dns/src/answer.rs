//! From a question and the zone to an answer. Pure.

use std::net::IpAddr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::zone::{Entry, Port, Zone, undashed};

/// How long clients may keep an answer, in seconds; kubeadm's setting for CoreDNS.
const TTL_SECONDS: u32 = 30;

/// What to send back.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Not a name of the cluster: forward it.
    NotOurs,
    /// A name outside that stands for the one asked: send the alias, and what the target resolves to.
    Alias {
        /// The alias record.
        record: Box<Record>,
        /// The name to look up, inside or outside.
        target: Name,
    },
    /// Ours.
    Reply {
        /// `NoError` or `NXDomain`.
        code: ResponseCode,
        /// The answer section; empty with `NoError` means the name exists without such records.
        answers: Vec<Record>,
        /// Addresses of the answers' targets.
        additionals: Vec<Record>,
    },
}

/// The cluster's domain, and the names built on it.
#[derive(Clone, Debug)]
pub struct Domain {
    name: Name,
    labels: Vec<String>,
}

impl Domain {
    /// Parses a domain such as `cluster.local`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut name = Name::from_ascii(text.to_ascii_lowercase()).ok()?;
        name.set_fqdn(true);
        let labels = name.iter().map(|label| String::from_utf8_lossy(label).into_owned()).collect();
        Some(Domain { name, labels })
    }

    /// The start of authority that accompanies negative answers. `serial` is a time in seconds.
    pub fn authority(&self, serial: u32) -> Option<Record> {
        let server = self.below("ns.dns")?;
        let mailbox = self.below("hostmaster")?;
        let soa = SOA::new(server, mailbox, serial, 7200, 1800, 86_400, TTL_SECONDS);
        Some(Record::from_rdata(self.name.clone(), TTL_SECONDS, RData::SOA(soa)))
    }

    fn below(&self, prefix: &str) -> Option<Name> {
        Name::from_ascii(prefix).ok()?.append_domain(&self.name).ok()
    }

    fn service_name(&self, namespace: &str, service: &str, label: Option<&str>) -> Option<Name> {
        match label {
            Some(label) => self.below(&format!("{label}.{service}.{namespace}.svc")),
            None => self.below(&format!("{service}.{namespace}.svc")),
        }
    }
}

/// Answers one question. `server` is the address clients reach this server by, for NS questions.
pub fn answer(
    zone: &Zone,
    domain: &Domain,
    question: &Name,
    kind: RecordType,
    server: Option<IpAddr>,
) -> Answer {
    let labels: Vec<String> =
        question.iter().map(|label| String::from_utf8_lossy(label).to_ascii_lowercase()).collect();
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    if let [.., "in-addr" | "ip6", "arpa"] = labels.as_slice() {
        return reverse(zone, domain, question, kind);
    }
    let Some(own) = labels.len().checked_sub(domain.labels.len()) else { return Answer::NotOurs };
    let (prefix, suffix) = labels.split_at(own);
    if !suffix.iter().zip(&domain.labels).all(|(a, b)| a == b) {
        return Answer::NotOurs;
    }
    let reply = Builder { domain, question, kind };
    match prefix {
        [] => match kind {
            RecordType::SOA => reply.found(domain.authority(1).into_iter().collect()),
            RecordType::NS => match domain.below("ns.dns") {
                Some(name) => reply.found(vec![reply.record(RData::NS(NS(name)))]),
                None => reply.no_data(),
            },
            _ => reply.no_data(),
        },
        ["ns", "dns"] => reply.addresses(server.into_iter()),
        ["dns-version"] if kind == RecordType::TXT => {
            reply.found(vec![reply.record(RData::TXT(TXT::new(vec!["1.1.0".to_owned()])))])
        }
        ["dns-version" | "svc" | "pod" | "dns"] => reply.no_data(),
        [label, namespace, "pod"] => match undashed(label) {
            Some(address) if zone.has_namespace(namespace) => reply.addresses([address].into_iter()),
            _ => reply.no_name(),
        },
        [namespace, "svc" | "pod"] if zone.has_namespace(namespace) => reply.no_data(),
        [service, namespace, "svc"] => match zone.service(namespace, service) {
            Some(entry) => reply.service(entry, namespace, service),
            None => reply.no_name(),
        },
        [label, service, namespace, "svc"] => match zone.service(namespace, service) {
            Some(Entry::Headless { endpoints }) if endpoints.iter().any(|e| e.label == *label) => {
                let matching: Vec<_> = endpoints.iter().filter(|e| e.label == *label).collect();
                if kind == RecordType::SRV {
                    let ports =
                        matching.iter().flat_map(|e| e.ports.iter().map(|p| (p, Some(e.label.as_str()))));
                    let mut answer = reply.services(ports, namespace, service);
                    if let Answer::Reply { additionals, .. } = &mut answer {
                        additionals
                            .extend(matching.iter().map(|e| address_record(question.clone(), e.address)));
                    }
                    answer
                } else {
                    reply.addresses(matching.iter().map(|e| e.address))
                }
            }
            Some(_) if label.starts_with('_') => reply.no_data(),
            _ => reply.no_name(),
        },
        [port, protocol, service, namespace, "svc"] if port.starts_with('_') && protocol.starts_with('_') => {
            match zone.service(namespace, service) {
                Some(entry) => reply.named_port(entry, namespace, service, &port[1..], &protocol[1..]),
                None => reply.no_name(),
            }
        }
        _ => reply.no_name(),
    }
}

struct Builder<'a> {
    domain: &'a Domain,
    question: &'a Name,
    kind: RecordType,
}

impl Builder<'_> {
    fn found(&self, answers: Vec<Record>) -> Answer {
        Answer::Reply { code: ResponseCode::NoError, answers, additionals: Vec::new() }
    }

    fn no_data(&self) -> Answer {
        self.found(Vec::new())
    }

    fn no_name(&self) -> Answer {
        Answer::Reply { code: ResponseCode::NXDomain, answers: Vec::new(), additionals: Vec::new() }
    }

    fn record(&self, data: RData) -> Record {
        Record::from_rdata(self.question.clone(), TTL_SECONDS, data)
    }

    fn addresses(&self, addresses: impl Iterator<Item = IpAddr>) -> Answer {
        let wanted = addresses.filter(|address| match self.kind {
            RecordType::A => address.is_ipv4(),
            RecordType::AAAA => address.is_ipv6(),
            _ => false,
        });
        let mut answers: Vec<Record> = Vec::new();
        for address in wanted {
            let record = address_record(self.question.clone(), address);
            if !answers.contains(&record) {
                answers.push(record);
            }
        }
        self.found(answers)
    }

    fn service(&self, entry: &Entry, namespace: &str, service: &str) -> Answer {
        match (entry, self.kind) {
            (Entry::Cluster { ports, addresses }, RecordType::SRV) => {
                let mut answer = self.services(ports.iter().map(|p| (p, None)), namespace, service);
                if let Answer::Reply { additionals, .. } = &mut answer {
                    additionals.extend(addresses.iter().map(|a| address_record(self.question.clone(), *a)));
                }
                answer
            }
            (Entry::Headless { endpoints }, RecordType::SRV) => {
                let ports =
                    endpoints.iter().flat_map(|e| e.ports.iter().map(|p| (p, Some(e.label.as_str()))));
                let mut answer = self.services(ports, namespace, service);
                if let Answer::Reply { additionals, .. } = &mut answer {
                    additionals.extend(endpoints.iter().filter_map(|e| {
                        let name = self.domain.service_name(namespace, service, Some(&e.label))?;
                        Some(address_record(name, e.address))
                    }));
                }
                answer
            }
            (Entry::Cluster { addresses, .. }, _) => self.addresses(addresses.iter().copied()),
            // A headless Service without endpoints has no name, as CoreDNS answers.
            (Entry::Headless { endpoints }, _) if endpoints.is_empty() => self.no_name(),
            (Entry::Headless { endpoints }, _) => self.addresses(endpoints.iter().map(|e| e.address)),
            (Entry::External { name }, _) => {
                let Ok(mut target) = Name::from_ascii(name) else { return self.no_data() };
                target.set_fqdn(true);
                let record = Box::new(self.record(RData::CNAME(CNAME(target.clone()))));
                if self.kind == RecordType::CNAME {
                    self.found(vec![*record])
                } else {
                    Answer::Alias { record, target }
                }
            }
        }
    }

    fn named_port(
        &self,
        entry: &Entry,
        namespace: &str,
        service: &str,
        name: &str,
        protocol: &str,
    ) -> Answer {
        let wanted = |port: &&Port| port.name.eq_ignore_ascii_case(name) && port.protocol == protocol;
        let (found, addresses): (Vec<(&Port, Option<&str>)>, Vec<(Option<&str>, IpAddr)>) = match entry {
            Entry::Cluster { ports, addresses } => (
                ports.iter().filter(wanted).map(|p| (p, None)).collect(),
                addresses.iter().map(|a| (None, *a)).collect(),
            ),
            Entry::Headless { endpoints } => (
                endpoints
                    .iter()
                    .flat_map(|e| e.ports.iter().filter(wanted).map(|p| (p, Some(e.label.as_str()))))
                    .collect(),
                endpoints.iter().map(|e| (Some(e.label.as_str()), e.address)).collect(),
            ),
            Entry::External { .. } => (Vec::new(), Vec::new()),
        };
        if found.is_empty() {
            return self.no_name();
        }
        if self.kind != RecordType::SRV {
            return self.no_data();
        }
        let mut answer = self.services(found.into_iter(), namespace, service);
        if let Answer::Reply { additionals, .. } = &mut answer {
            additionals.extend(addresses.into_iter().filter_map(|(label, address)| {
                Some(address_record(self.domain.service_name(namespace, service, label)?, address))
            }));
        }
        answer
    }

    /// SRV records. Weights share 100 evenly, as CoreDNS does.
    fn services<'p>(
        &self,
        ports: impl Iterator<Item = (&'p Port, Option<&'p str>)>,
        namespace: &str,
        service: &str,
    ) -> Answer {
        let ports: Vec<_> = ports.collect();
        let weight = u16::try_from(100 / ports.len().max(1)).unwrap_or(1).max(1);
        let records = ports.iter().filter_map(|(port, label)| {
            let target = self.domain.service_name(namespace, service, *label)?;
            Some(self.record(RData::SRV(SRV::new(0, weight, port.number, target))))
        });
        self.found(records.collect())
    }
}

/// PTR: names of cluster IPs and of headless endpoints. Addresses we do not know are somebody else's.
fn reverse(zone: &Zone, domain: &Domain, question: &Name, kind: RecordType) -> Answer {
    let Ok(network) = question.parse_arpa_name() else { return Answer::NotOurs };
    let address = network.addr();
    let whole = if address.is_ipv4() { 32 } else { 128 };
    if network.prefix_len() != whole {
        return Answer::NotOurs;
    }
    let records: Vec<Record> = zone
        .names_of(address)
        .filter_map(|(namespace, service, label)| domain.service_name(namespace, service, label.as_deref()))
        .map(|name| Record::from_rdata(question.clone(), TTL_SECONDS, RData::PTR(PTR(name))))
        .collect();
    match records.is_empty() {
        true => Answer::NotOurs,
        false => Answer::Reply {
            code: ResponseCode::NoError,
            answers: if kind == RecordType::PTR { records } else { Vec::new() },
            additionals: Vec::new(),
        },
    }
}

fn address_record(name: Name, address: IpAddr) -> Record {
    let data = match address {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    };
    Record::from_rdata(name, TTL_SECONDS, data)
}

#[cfg(test)]
mod tests;
