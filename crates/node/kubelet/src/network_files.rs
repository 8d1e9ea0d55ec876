//! What a pod knows of names: its hostname, `/etc/resolv.conf` and `/etc/hosts`. Pure, but for [`host_resolver`].
//!
//! Source of the behaviour: upstream's `network/dns/dns.go` and `kubelet_pods.go`.

use std::{io, net::IpAddr, path::Path};

use k8s_openapi::api::core::v1::{HostAlias, Pod, PodDNSConfig};
use podium_cri::v1::DnsConfig;

use crate::pod;

/// Limits of libc's resolver that upstream keeps to.
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARACTERS: usize = 2048;
/// Of one of them: some resolvers, glibc 2.28's among them, abort on a longer one.
const MAX_SEARCH_LENGTH: usize = 253;
/// The longest host name Linux takes.
const MAX_HOSTNAME: usize = 63;

/// The pod's host name and, if it has one, its domain below the cluster's.
///
/// # Errors
/// If `setHostnameAsFQDN` makes a name that Linux does not take; the text is upstream's.
pub(crate) fn hostname(pod: &Pod, cluster_domain: &str) -> Result<(String, String), String> {
    let spec = pod.spec.as_ref();
    let wanted = spec.and_then(|spec| spec.hostname.as_deref()).filter(|name| !name.is_empty());
    let name: String = match wanted {
        Some(name) => name.to_owned(),
        None => {
            let cut: String = pod::name(pod).chars().take(MAX_HOSTNAME).collect();
            cut.trim_end_matches(['-', '.']).to_owned()
        }
    };
    let domain = match spec.and_then(|spec| spec.subdomain.as_deref()).filter(|sub| !sub.is_empty()) {
        Some(subdomain) => format!("{subdomain}.{}.svc.{cluster_domain}", pod::namespace(pod)),
        None => String::new(),
    };
    let overriding = spec.and_then(|spec| spec.hostname_override.clone()).filter(|name| !name.is_empty());
    if let Some(name) = overriding {
        return Ok((name, String::new()));
    }
    let as_fqdn = spec.and_then(|spec| spec.set_hostname_as_fqdn) == Some(true);
    if as_fqdn && !domain.is_empty() {
        let full = format!("{name}.{domain}");
        if full.len() > 64 {
            return Err(format!(
                "failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long (64 characters is the max, {} characters requested)",
                full.len()
            ));
        }
        return Ok((full, domain));
    }
    Ok((name, domain))
}

/// The host's own resolver settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HostResolver {
    pub(crate) servers: Vec<String>,
    pub(crate) searches: Vec<String>,
    pub(crate) options: Vec<String>,
}

/// The host's resolver settings as they are now: networks come and go while the kubelet runs. A host without the file, or
/// an empty path, has none. Source: upstream's `getHostDNSConfig`.
pub(crate) async fn host_resolver(resolv_conf: &Path) -> Result<HostResolver, String> {
    match tokio::fs::read_to_string(resolv_conf).await {
        Ok(text) => Ok(parse_resolv_conf(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(HostResolver::default()),
        Err(error) => Err(format!("failed to read {}: {error}", resolv_conf.display())),
    }
}

/// Reads a resolv.conf.
pub(crate) fn parse_resolv_conf(text: &str) -> HostResolver {
    let mut found = HostResolver::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => found.servers.extend(words.next().map(str::to_owned)),
            Some("search") => {
                found.searches = words
                    .map(|word| word.trim_end_matches('.').to_owned())
                    .filter(|w| !w.is_empty())
                    .collect();
            }
            Some("options") => found.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    found
}

/// The resolver settings of a pod.
pub(crate) fn dns(pod: &Pod, cluster_dns: &[IpAddr], cluster_domain: &str, host: &HostResolver) -> DnsConfig {
    form(pod, cluster_dns, cluster_domain, host).0
}

/// What a pod's resolver settings lack of what was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DnsTrouble {
    /// The cluster's DNS was asked for and nobody said where it is: the host's settings were taken.
    NoClusterDns,
    /// More than resolvers can take: what is left is in the text.
    TooMuch(String),
}

/// The resolver settings of a pod, and what its owner should be told of them. Source: upstream's `network/dns`.
pub(crate) fn form(
    pod: &Pod,
    cluster_dns: &[IpAddr],
    cluster_domain: &str,
    host: &HostResolver,
) -> (DnsConfig, Vec<DnsTrouble>) {
    let spec = pod.spec.as_ref();
    let policy = spec.and_then(|spec| spec.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let cluster = match policy {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => !pod::host_network(pod),
        _ => false,
    };
    let mut config = if policy == "None" {
        DnsConfig::default()
    } else if cluster && !cluster_dns.is_empty() {
        let namespace = pod::namespace(pod);
        let own = [
            format!("{namespace}.svc.{cluster_domain}"),
            format!("svc.{cluster_domain}"),
            cluster_domain.to_owned(),
        ];
        DnsConfig {
            servers: cluster_dns.iter().map(ToString::to_string).collect(),
            searches: unique(own.into_iter().chain(host.searches.iter().cloned())),
            options: vec!["ndots:5".to_owned()],
        }
    } else {
        DnsConfig {
            servers: host.servers.clone(),
            searches: host.searches.clone(),
            options: host.options.clone(),
        }
    };
    if let Some(extra) = spec.and_then(|spec| spec.dns_config.as_ref()) {
        merge(&mut config, extra);
    }
    let mut troubles = Vec::new();
    if cluster && cluster_dns.is_empty() {
        troubles.push(DnsTrouble::NoClusterDns);
    }
    if config.servers.len() > MAX_NAMESERVERS {
        config.servers.truncate(MAX_NAMESERVERS);
        troubles.push(DnsTrouble::TooMuch(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
            config.servers.join(" ")
        )));
    }
    let asked = config.searches.len();
    config.searches.truncate(MAX_SEARCHES);
    config.searches.retain(|search| search.len() <= MAX_SEARCH_LENGTH);
    while config.searches.join(" ").len() > MAX_SEARCH_CHARACTERS {
        config.searches.pop();
    }
    if config.searches.len() < asked {
        troubles.push(DnsTrouble::TooMuch(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            config.searches.join(" ")
        )));
    }
    (config, troubles)
}

fn merge(config: &mut DnsConfig, extra: &PodDNSConfig) {
    let all =
        std::mem::take(&mut config.servers).into_iter().chain(extra.nameservers.iter().flatten().cloned());
    config.servers = unique(all);
    let all =
        std::mem::take(&mut config.searches).into_iter().chain(extra.searches.iter().flatten().cloned());
    config.searches = unique(all);
    for option in extra.options.iter().flatten() {
        let Some(name) = option.name.as_deref().filter(|name| !name.is_empty()) else { continue };
        config.options.retain(|have| have.split(':').next() != Some(name));
        config.options.push(match option.value.as_deref().filter(|value| !value.is_empty()) {
            Some(value) => format!("{name}:{value}"),
            None => name.to_owned(),
        });
    }
}

fn unique(items: impl Iterator<Item = String>) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for item in items {
        if !kept.contains(&item) {
            kept.push(item);
        }
    }
    kept
}

/// The text of the pod's `/etc/hosts`. `host_file`: the host's own, for pods on its network.
pub(crate) fn hosts_file(
    aliases: &[HostAlias],
    ips: &[String],
    hostname: &str,
    domain: &str,
    host_file: Option<&str>,
) -> String {
    let mut text = match host_file {
        Some(host) => format!("# Kubernetes-managed hosts file (host network).\n{host}"),
        None => {
            let mut text = "# Kubernetes-managed hosts file.\n\
                127.0.0.1\tlocalhost\n\
                ::1\tlocalhost ip6-localhost ip6-loopback\n\
                fe00::0\tip6-localnet\n\
                fe00::0\tip6-mcastprefix\n\
                fe00::1\tip6-allnodes\n\
                fe00::2\tip6-allrouters\n"
                .to_owned();
            for ip in ips {
                if domain.is_empty() {
                    text.push_str(&format!("{ip}\t{hostname}\n"));
                } else {
                    let short = hostname.split('.').next().unwrap_or(hostname);
                    text.push_str(&format!("{ip}\t{short}.{domain}\t{short}\n"));
                }
            }
            text
        }
    };
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
            text.push_str(&format!("{}\t{names}\n", alias.ip));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{
        api::core::v1::{PodDNSConfigOption, PodSpec},
        apimachinery::pkg::apis::meta::v1::ObjectMeta,
    };

    use super::*;

    fn pod(spec: PodSpec) -> Pod {
        Pod {
            metadata: ObjectMeta {
                name: Some("web-1".into()),
                namespace: Some("production".into()),
                ..Default::default()
            },
            spec: Some(spec),
            ..Default::default()
        }
    }

    fn host() -> HostResolver {
        parse_resolv_conf("# c\nnameserver 192.0.2.53\nsearch corp.example.\noptions timeout:1\n")
    }

    #[track_caller]
    fn check(spec: PodSpec, servers: &[&str], searches: &[&str], options: &[&str]) {
        let found = dns(&pod(spec), &["10.96.0.10".parse().unwrap()], "cluster.local", &host());
        assert_eq!(
            (found.servers, found.searches, found.options),
            (
                servers.iter().map(ToString::to_string).collect(),
                searches.iter().map(ToString::to_string).collect(),
                options.iter().map(ToString::to_string).collect(),
            )
        );
    }

    #[test]
    fn policies() {
        let cluster = ["production.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"];
        let policy = |policy: &str| PodSpec { dns_policy: Some(policy.into()), ..Default::default() };
        let on_host = |policy: &str| PodSpec {
            dns_policy: Some(policy.into()),
            host_network: Some(true),
            ..Default::default()
        };
        check(policy("ClusterFirst"), &["10.96.0.10"], &cluster, &["ndots:5"]);
        check(on_host("ClusterFirstWithHostNet"), &["10.96.0.10"], &cluster, &["ndots:5"]);
        for spec in [policy("Default"), on_host("ClusterFirst")] {
            check(spec, &["192.0.2.53"], &["corp.example"], &["timeout:1"]);
        }
        let option = |name: &str, value: Option<&str>| PodDNSConfigOption {
            name: Some(name.into()),
            value: value.map(str::to_owned),
        };
        let own = PodDNSConfig {
            nameservers: Some(vec!["1.1.1.1".into()]),
            searches: Some(vec!["a.example".into()]),
            options: Some(vec![option("ndots", Some("2")), option("edns0", None)]),
        };
        check(
            PodSpec { dns_config: Some(own.clone()), ..policy("None") },
            &["1.1.1.1"],
            &["a.example"],
            &["ndots:2", "edns0"],
        );
        check(
            PodSpec { dns_config: Some(own), ..policy("ClusterFirst") },
            &["10.96.0.10", "1.1.1.1"],
            &[
                "production.svc.cluster.local",
                "svc.cluster.local",
                "cluster.local",
                "corp.example",
                "a.example",
            ],
            &["ndots:2", "edns0"],
        );
    }

    #[test]
    fn hostnames() {
        let named = |hostname: Option<&str>, subdomain: Option<&str>, fqdn: bool| {
            hostname_of(hostname, subdomain, fqdn)
        };
        fn hostname_of(hostname: Option<&str>, subdomain: Option<&str>, fqdn: bool) -> (String, String) {
            super::hostname(
                &pod(PodSpec {
                    hostname: hostname.map(str::to_owned),
                    subdomain: subdomain.map(str::to_owned),
                    set_hostname_as_fqdn: Some(fqdn),
                    ..Default::default()
                }),
                "cluster.local",
            )
            .unwrap()
        }
        assert_eq!(named(None, None, false), ("web-1".into(), String::new()));
        let domain = "db.production.svc.cluster.local";
        assert_eq!(named(Some("a"), Some("db"), false), ("a".into(), domain.into()));
        assert_eq!(named(Some("a"), Some("db"), true), (format!("a.{domain}"), domain.into()));
    }

    #[test]
    fn hosts() {
        let alias = HostAlias { ip: "9.9.9.9".into(), hostnames: Some(vec!["x".into(), "y".into()]) };
        let text = hosts_file(&[alias], &["10.244.0.5".into()], "a", "db.p.svc.cluster.local", None);
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"), "{text}");
        assert!(text.contains("10.244.0.5\ta.db.p.svc.cluster.local\ta\n"), "{text}");
        assert!(text.ends_with("\n# Entries added by HostAliases.\n9.9.9.9\tx\ty\n"), "{text}");
        let text = hosts_file(&[], &[], "a", "", Some("127.0.0.1 localhost\n"));
        assert_eq!(text, "# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n");
    }

    #[test]
    fn owners_are_told_what_their_settings_lack() {
        let host = HostResolver::default();
        let pod = |spec: serde_json::Value| -> Pod {
            serde_json::from_value(
                serde_json::json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec}),
            )
            .unwrap()
        };
        let first = |spec: serde_json::Value, dns: &[IpAddr]| {
            let (config, troubles) = form(&pod(spec), dns, "cluster.local", &host);
            (config.servers.len(), config.searches.len(), troubles)
        };
        let dns = [IpAddr::from([10, 96, 0, 10])];
        let none = || serde_json::json!({"containers": []});
        assert_eq!(first(none(), &dns), (1, 3, vec![]));
        assert_eq!(first(none(), &[]).2, [DnsTrouble::NoClusterDns]);
        // On the host's network, or by the host's settings, nobody misses it.
        for spec in [
            serde_json::json!({"containers": [], "hostNetwork": true}),
            serde_json::json!({"containers": [], "dnsPolicy": "Default"}),
        ] {
            assert_eq!(first(spec, &[]).2, []);
        }
        let servers = serde_json::json!({"containers": [], "dnsPolicy": "None",
            "dnsConfig": {"nameservers": ["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"]}});
        assert_eq!(first(servers, &dns), (3, 0, vec![DnsTrouble::TooMuch(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: \
            1.1.1.1 1.1.1.2 1.1.1.3".to_owned()
        )]));
        let long = serde_json::json!({"containers": [], "dnsPolicy": "None",
            "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["a".repeat(254), "b"]}});
        assert_eq!(first(long, &dns), (1, 1, vec![DnsTrouble::TooMuch(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: b"
                .to_owned()
        )]));
    }
}
