//! Validation of Services and of changes to them.

use std::net::IpAddr;

use ahash::AHashSet;
use serde_json::Value;

use super::{externally_accessible, headless, needs_health_check};
use crate::field::{Errors, Path, Reason};
use crate::kinds::pod::{choice, given_choice, port_or_name};
use crate::kinds::tree::{has, int, list, opt_int, text, value};
use crate::kinds::validate::{self, labels, qualified_name};

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

/// Validates a Service; addresses that were there before are not judged again.
pub(super) fn service(object: &Value, old: Option<&Value>, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = value(object, "spec");
    let before = old.map_or(&Value::Null, |old| value(old, "spec"));
    let kind = text(spec, "type");
    let is_headless = headless(spec);
    topology_annotations(object, errors);
    if list(spec, "ports").is_empty() && !is_headless && kind != "ExternalName" {
        errors.required(&path.child("ports"), "");
    }
    match kind {
        "LoadBalancer" | "NodePort" if is_headless => errors.invalid(
            &path.child("clusterIPs").index(0),
            "None",
            &format!("may not be set to 'None' for {kind} services"),
        ),
        "ExternalName" => external_name(spec, &path, errors),
        _ => {}
    }
    ports(spec, &path.child("ports"), errors);
    labels(value(spec, "selector"), &path.child("selector"), errors);
    session_affinity(spec, &path, errors);
    address_faults(object, old, errors);
    for (index, ip) in list(spec, "externalIPs").iter().filter_map(Value::as_str).enumerate() {
        let at = path.child("externalIPs");
        let at = at.index(index);
        match validate::ip(ip) {
            _ if list(before, "externalIPs").iter().any(|old| old == ip) => {}
            Ok(_) => endpoint_ip(ip, &at, errors),
            Err(fault) => errors.invalid(&at, ip, fault),
        }
    }
    choice(spec, "type", &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"], &path, errors);
    node_ports(spec, &path.child("ports"), errors);
    load_balancer(object, before, &path, errors);
    source_range_annotation(object, old, errors);
    traffic_policies(spec, &path, errors);
}

fn topology_annotations(object: &Value, errors: &mut Errors) {
    const MODE: &str = "service.kubernetes.io/topology-mode";
    const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    let annotations = value(value(object, "metadata"), "annotations");
    let (mode, hints) = (value(annotations, MODE), value(annotations, HINTS));
    if !mode.is_null() && !hints.is_null() && mode != hints {
        let metadata = Path::new("metadata");
        let at = metadata.child("annotations");
        let why = format!("must match annotations[{HINTS}] when both are specified");
        errors.invalid(&at.key(MODE), mode.clone(), &why);
    }
}

fn external_name(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    for field in ["clusterIPs", "ipFamilies"] {
        if !list(spec, field).is_empty() {
            errors.forbidden(&path.child(field), "may not be set for ExternalName services");
        }
    }
    if has(spec, "ipFamilyPolicy") {
        errors.forbidden(&path.child("ipFamilyPolicy"), "may not be set for ExternalName services");
    }
    let target = text(spec, "externalName");
    let target = target.strip_suffix('.').unwrap_or(target);
    if target.is_empty() {
        errors.required(&path.child("externalName"), "");
    }
    validate::optional_subdomain(target, &path.child("externalName"), errors);
}

fn ports(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let ports = list(spec, "ports");
    let mut names = AHashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let at = path.index(index);
        let name = text(port, "name");
        if !name.is_empty() {
            for fault in validate::label(name) {
                errors.invalid(&at.child("name"), name, &fault);
            }
            if !names.insert(name) {
                errors.duplicate(&at.child("name"), name);
            }
        } else if ports.len() > 1 {
            errors.required(&at.child("name"), "");
        }
        let number = int(port, "port");
        if let Some(fault) = validate::port_number(number) {
            errors.invalid(&at.child("port"), number, &fault);
        }
        choice(port, "protocol", PROTOCOLS, &at, errors);
        port_or_name(value(port, "targetPort"), &at.child("targetPort"), errors);
        app_protocol(port, &at, errors);
    }
}

/// `appProtocol` of a port of a Service or of endpoints.
pub(crate) fn app_protocol(port: &Value, path: &Path<'_>, errors: &mut Errors) {
    if has(port, "appProtocol") {
        let protocol = text(port, "appProtocol");
        for fault in qualified_name(protocol) {
            errors.invalid(&path.child("appProtocol"), protocol, &fault);
        }
    }
}

fn node_ports(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let cluster_only = text(spec, "type") == "ClusterIP";
    let (mut nodes, mut numbers) = (AHashSet::new(), AHashSet::new());
    let ports = list(spec, "ports");
    for (index, port) in ports.iter().enumerate().filter(|(_, p)| int(p, "nodePort") != 0) {
        let at = path.index(index);
        let number = int(port, "nodePort");
        if cluster_only {
            errors.forbidden(&at.child("nodePort"), "may not be used when `type` is 'ClusterIP'");
        }
        if !nodes.insert((text(port, "protocol"), number)) {
            errors.duplicate(&at.child("nodePort"), number);
        }
    }
    for (index, port) in ports.iter().enumerate() {
        let (protocol, number) = (text(port, "protocol"), int(port, "port"));
        if !numbers.insert((protocol, number)) {
            // Upstream shows what it compares, which is no more of the port than this, in the order of its internal type.
            let shown = format!(
                "{{\"Name\":\"\",\"Protocol\":{protocol:?},\"AppProtocol\":null,\"Port\":{number},\"TargetPort\":0,\"NodePort\":0}}"
            );
            errors.push(Reason::Duplicate, &path.index(index), format!("Duplicate value: {shown}"));
        }
    }
}

fn session_affinity(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    choice(spec, "sessionAffinity", &["ClientIP", "None"], path, errors);
    let config = value(spec, "sessionAffinityConfig");
    let at = path.child("sessionAffinityConfig");
    match text(spec, "sessionAffinity") {
        "ClientIP" => {
            let client = value(config, "clientIP");
            let seconds = opt_int(client, "timeoutSeconds");
            let at_client = at.child("clientIP");
            let why = "when session affinity type is ClientIP";
            match seconds {
                _ if config.is_null() => errors.required(&at, why),
                _ if client.is_null() => errors.required(&at_client, why),
                None => errors.required(&at_client.child("timeoutSeconds"), why),
                Some(seconds) if !(1..=86400).contains(&seconds) => errors.invalid(
                    &at_client.child("timeoutSeconds"),
                    seconds,
                    "must be greater than 0 and less than 86400",
                ),
                Some(_) => {}
            }
        }
        "None" if !config.is_null() => {
            errors.forbidden(&at, "must not be set when session affinity is None");
        }
        _ => {}
    }
}

fn is_v6(ip: &str) -> bool {
    ip.contains(':')
}

/// Faults of a Service's addresses and their families. Told alone when there are any: nothing is allocated then.
pub fn address_faults(object: &Value, old: Option<&Value>, errors: &mut Errors) {
    let path = &Path::new("spec");
    let spec = value(object, "spec");
    let before = old.map_or(&Value::Null, |old| value(old, "spec"));
    if text(spec, "type") == "ExternalName" {
        return;
    }
    let at = path.child("clusterIPs");
    let all = value(spec, "clusterIPs");
    let ips: Vec<&str> = list(spec, "clusterIPs").iter().filter_map(Value::as_str).collect();
    let first = text(spec, "clusterIP");
    match (first, ips.first()) {
        ("", Some(_)) => errors.invalid(&at, all.clone(), "must be empty when `clusterIP` is not specified"),
        ("", None) => {}
        (_, None) => errors.required(&at, ""),
        (one, Some(other)) if one != *other => {
            errors.invalid(&at, all.clone(), "first value must match `clusterIP`");
        }
        _ => {}
    }
    let mut seen = AHashSet::new();
    let families = list(spec, "ipFamilies");
    for (index, family) in families.iter().filter_map(Value::as_str).enumerate() {
        let at = path.child("ipFamilies");
        if !matches!(family, "IPv4" | "IPv6") {
            errors.not_supported(&at.index(index), family, &["IPv4", "IPv6"]);
        }
        if !seen.insert(family) {
            errors.duplicate(&at.index(index), family);
        }
    }
    crate::kinds::pod::optional_choice(
        spec,
        "ipFamilyPolicy",
        &["PreferDualStack", "RequireDualStack", "SingleStack"],
        path,
        errors,
    );
    let faults = errors.0.len();
    for (index, ip) in ips.iter().enumerate() {
        if index == 0 && *ip == "None" {
            if ips.len() > 1 {
                errors.invalid(&at, all.clone(), "'None' must be the first and only value");
            }
            continue;
        }
        let known = list(before, "clusterIPs").iter().any(|old| old == ip);
        if let Err(fault) = validate::ip(ip)
            && !known
        {
            errors.invalid(&at.index(index), *ip, fault);
        }
    }
    let invalid = errors.0.len() > faults;
    if ips.len() > 2 {
        errors.invalid(&at, all.clone(), "may only hold up to 2 values");
    }
    if invalid {
        return;
    }
    if ips.len() > 1 && (ips.len() > 2 || is_v6(ips[0]) == is_v6(ips[1])) {
        errors.invalid(&at, all.clone(), "may specify no more than one IP for each IP family");
    }
    if headless(spec) {
        return;
    }
    for (index, (ip, family)) in ips.iter().zip(families.iter().filter_map(Value::as_str)).enumerate() {
        if (family == "IPv6") != is_v6(ip) {
            errors.invalid(
                &at.index(index),
                *ip,
                &format!("expected an {family} value as indicated by `ipFamilies[{index}]`"),
            );
        }
    }
}

/// The source ranges of a load balancer as an annotation, which counts where the field is empty.
fn source_range_annotation(object: &Value, old: Option<&Value>, errors: &mut Errors) {
    const RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
    let annotation = |object| value(value(value(object, "metadata"), "annotations"), RANGES);
    let Some(ranges) = annotation(object).as_str() else { return };
    let spec = value(object, "spec");
    if !list(spec, "loadBalancerSourceRanges").is_empty() {
        return;
    }
    let metadata = Path::new("metadata");
    let at = metadata.child("annotations");
    let at = at.key(RANGES);
    if text(spec, "type") != "LoadBalancer" {
        errors.forbidden(&at, "may only be used when `type` is 'LoadBalancer'");
    }
    let unchanged = old.is_some_and(|old| annotation(old) == ranges);
    for range in ranges.split(',').map(str::trim).filter(|_| !unchanged && !ranges.trim().is_empty()) {
        if let Err(fault) = validate::cidr(range) {
            errors.invalid(&at, range, fault);
        }
    }
}

fn load_balancer(object: &Value, before: &Value, path: &Path<'_>, errors: &mut Errors) {
    let spec = value(object, "spec");
    let balanced = text(spec, "type") == "LoadBalancer";
    let ranges = list(spec, "loadBalancerSourceRanges");
    if !ranges.is_empty() {
        // The field is written so upstream.
        let at = path.child("LoadBalancerSourceRanges");
        if !balanced {
            errors.forbidden(&at, "may only be used when `type` is 'LoadBalancer'");
        }
        for (index, range) in ranges.iter().filter_map(Value::as_str).enumerate() {
            let known = list(before, "loadBalancerSourceRanges").iter().any(|old| old == range);
            if let Err(fault) = validate::cidr(range.trim())
                && !known
            {
                errors.invalid(&at.index(index), range.trim(), fault);
            }
        }
    }
    if has(spec, "allocateLoadBalancerNodePorts") && !balanced {
        errors.forbidden(
            &path.child("allocateLoadBalancerNodePorts"),
            "may only be used when `type` is 'LoadBalancer'",
        );
    }
    balancer_class(spec, path, errors);
}

fn balancer_class(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    if !has(spec, "loadBalancerClass") {
        return;
    }
    let class = text(spec, "loadBalancerClass");
    let at = path.child("loadBalancerClass");
    if text(spec, "type") == "LoadBalancer" {
        for fault in qualified_name(class) {
            errors.invalid(&at, class, &fault);
        }
    } else {
        errors.forbidden(&at, "may only be used when `type` is 'LoadBalancer'");
    }
}

fn traffic_policies(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let policy = text(spec, "externalTrafficPolicy");
    if externally_accessible(spec) {
        choice(spec, "externalTrafficPolicy", &["Cluster", "Local"], path, errors);
    } else if !policy.is_empty() {
        errors.invalid(
            &path.child("externalTrafficPolicy"),
            policy,
            "may only be set for externally-accessible services",
        );
    }
    let port = int(spec, "healthCheckNodePort");
    let at = path.child("healthCheckNodePort");
    if needs_health_check(spec) {
        match validate::port_number(port) {
            _ if port == 0 => errors.required(&at, ""),
            Some(fault) => errors.invalid(&at, port, &fault),
            None => {}
        }
    } else if port != 0 {
        errors.invalid(
            &at,
            port,
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        );
    }
    let allowed = ["Cluster", "Local"];
    if matches!(text(spec, "type"), "ClusterIP" | "NodePort" | "LoadBalancer")
        || has(spec, "internalTrafficPolicy")
    {
        given_choice(spec, "internalTrafficPolicy", &allowed, path, errors);
    }
    crate::kinds::pod::optional_choice(
        spec,
        "trafficDistribution",
        &["PreferClose", "PreferSameZone", "PreferSameNode"],
        path,
        errors,
    );
}

/// An address at which a Service may be reached or to which it may send: none of this machine's own.
pub(crate) fn endpoint_ip(ip: &str, path: &Path<'_>, errors: &mut Errors) {
    let Ok(address) = ip.parse::<IpAddr>() else { return };
    let (link_local, multicast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    if address.is_unspecified() {
        errors.invalid(path, ip, &format!("may not be unspecified ({ip})"));
    }
    if address.is_loopback() {
        errors.invalid(path, ip, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    if link_local {
        errors.invalid(path, ip, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if multicast {
        errors.invalid(path, ip, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}

/// Faults of a change: addresses and families stay once set. The new object itself is judged too.
pub(super) fn update(new: &Value, old: &Value, errors: &mut Errors) {
    let (spec, before) = (value(new, "spec"), value(old, "spec"));
    let path = Path::new("spec");
    let named = text(spec, "type") == "ExternalName" || text(before, "type") == "ExternalName";
    let (now_headless, was_headless) = (headless(spec), headless(before));
    let stays_headless = now_headless && was_headless;
    if !named && !stays_headless {
        ips_stay(spec, before, &path, errors);
    }
    if !named && !now_headless && !was_headless {
        families_stay(spec, before, &path, errors);
    }
    let both_balanced = text(spec, "type") == "LoadBalancer" && text(before, "type") == "LoadBalancer";
    if both_balanced && value(spec, "loadBalancerClass") != value(before, "loadBalancerClass") {
        errors.invalid(
            &path.child("loadBalancerClass"),
            value(spec, "loadBalancerClass").clone(),
            "may not change once set",
        );
    }
    // Told twice, as upstream looks twice.
    balancer_class(spec, &path, errors);
    let checked = needs_health_check(spec) && needs_health_check(before);
    if checked && int(spec, "healthCheckNodePort") != int(before, "healthCheckNodePort") {
        errors.forbidden(&path.child("healthCheckNodePort"), "field is immutable");
    }
}

fn ips_stay(spec: &Value, before: &Value, path: &Path<'_>, errors: &mut Errors) {
    let (news, olds) = (list(spec, "clusterIPs"), list(before, "clusterIPs"));
    let shown = value(spec, "clusterIPs");
    let at = path.child("clusterIPs");
    if news.len() == olds.len() {
        for (index, _) in olds.iter().zip(news).enumerate().filter(|(_, (old, new))| old != new) {
            errors.invalid(&at.index(index), shown.clone(), "may not change once set");
        }
        return;
    }
    if news.is_empty() {
        errors.invalid(&at.index(0), shown.clone(), "primary clusterIP can not be unset");
    } else if !olds.is_empty() && news[0] != olds[0] {
        errors.invalid(&at.index(0), shown.clone(), "may not change once set");
    }
    if news.len() == 1 && olds.len() > 1 && text(spec, "ipFamilyPolicy") != "SingleStack" {
        errors.invalid(
            &path.child("ipFamilyPolicy"),
            value(spec, "ipFamilyPolicy").clone(),
            "must be set to 'SingleStack' when releasing the secondary clusterIP",
        );
    }
}

fn families_stay(spec: &Value, before: &Value, path: &Path<'_>, errors: &mut Errors) {
    let (news, olds) = (list(spec, "ipFamilies"), list(before, "ipFamilies"));
    let at = path.child("ipFamilies");
    if news.len() == olds.len() {
        for _ in olds.iter().zip(news).filter(|(old, new)| old != new) {
            errors.invalid(&at.index(0), value(spec, "ipFamilies").clone(), "may not change once set");
        }
        return;
    }
    if olds.len() > news.len() && list(spec, "clusterIPs").is_empty() {
        errors.invalid(&at.index(0), value(spec, "ipFamilies").clone(), "primary ipFamily can not be unset");
    }
    if !news.is_empty() && !olds.is_empty() && news[0] != olds[0] {
        errors.invalid(&at.index(0), value(spec, "clusterIPs").clone(), "may not change once set");
    }
    if news.len() == 1 && olds.len() > 1 && text(spec, "ipFamilyPolicy") != "SingleStack" {
        errors.invalid(
            &path.child("ipFamilyPolicy"),
            value(spec, "ipFamilyPolicy").clone(),
            "must be set to 'SingleStack' when releasing the secondary ipFamily",
        );
    }
}

/// Faults of a status update.
pub(super) fn status(new: &Value, old: &Value, errors: &mut Errors) {
    let status = Path::new("status");
    let at = status.child("loadBalancer");
    let balancer = |object| value(value(object, "status"), "loadBalancer");
    balancer_status(
        balancer(new),
        balancer(old),
        text(value(new, "spec"), "type") == "LoadBalancer",
        &at,
        errors,
    );
}

fn balancer_status(new: &Value, old: &Value, allowed: bool, path: &Path<'_>, errors: &mut Errors) {
    let all = list(new, "ingress");
    let at = path.child("ingress");
    if !allowed && !all.is_empty() {
        errors.forbidden(&at, "may only be used when `spec.type` is 'LoadBalancer'");
        return;
    }
    for (index, ingress) in all.iter().enumerate() {
        let at = at.index(index);
        let (ip, host) = (text(ingress, "ip"), text(ingress, "hostname"));
        balancer_ip(ip, old, &at, errors);
        match (has(ingress, "ipMode"), ip.is_empty()) {
            (false, false) => errors.required(&at.child("ipMode"), "must be specified when `ip` is set"),
            (true, true) => {
                errors.forbidden(&at.child("ipMode"), "may not be specified when `ip` is not set");
            }
            _ => crate::kinds::pod::optional_choice(ingress, "ipMode", &["Proxy", "VIP"], &at, errors),
        }
        balancer_host(host, &at, errors);
    }
}

/// Validates where a balancer in front of an Ingress may be reached.
pub(crate) fn ingress_balancer_status(new: &Value, old: &Value, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("ingress");
    for (index, ingress) in list(new, "ingress").iter().enumerate() {
        let at = at.index(index);
        balancer_ip(text(ingress, "ip"), old, &at, errors);
        balancer_host(text(ingress, "hostname"), &at, errors);
    }
}

/// An address that was there before is not judged again.
fn balancer_ip(ip: &str, old: &Value, path: &Path<'_>, errors: &mut Errors) {
    let known = list(old, "ingress").iter().any(|o| text(o, "ip") == ip);
    if !ip.is_empty()
        && !known
        && let Err(fault) = validate::ip(ip)
    {
        errors.invalid(&path.child("ip"), ip, fault);
    }
}

fn balancer_host(host: &str, path: &Path<'_>, errors: &mut Errors) {
    validate::optional_subdomain(host, &path.child("hostname"), errors);
    if host.parse::<IpAddr>().is_ok() {
        errors.invalid(&path.child("hostname"), host, "must be a DNS name, not an IP address");
    }
}
