//! Validation of names, labels, numbers and addresses shared by kinds, in upstream's words.
//!
//! Each function returns the list of faults, empty when there is none; the success path neither allocates nor compiles a
//! pattern. Source: `apimachinery/pkg/util/validation`, `apimachinery/pkg/api/validate/content`.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::Value;

use crate::field::{Errors, Path};

pub(crate) mod meta;

pub use meta::{annotations, label_selector, label_selector_at, labels};
pub(crate) use meta::{finalizer_domains, metadata, metadata_names, metadata_update};

/// The text shown when a field that may not change was changed.
pub const IMMUTABLE: &str = "field is immutable";
/// The text for a number below zero.
pub const NEGATIVE: &str = "must be greater than or equal to 0";

const LABEL_FMT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN_FMT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const QUALIFIED_FMT: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

/// `MESSAGE (e.g. 'a',  or 'b', regex used for validation is 'FMT')`
pub(crate) fn pattern_fault(message: &str, pattern: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{pattern}')");
    }
    let examples: Vec<String> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{pattern}')", examples.join(" or "))
}

fn max_characters(max: usize) -> String {
    format!("must be no more than {max} characters")
}

fn max_bytes(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

/// `must be between LOW and HIGH, inclusive`
pub fn range_fault(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

fn lower_or_digit(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(&first), Some(&last)) => {
            lower_or_digit(first)
                && lower_or_digit(last)
                && bytes.iter().all(|&b| lower_or_digit(b) || b == b'-')
        }
        _ => false,
    }
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

fn is_qualified_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => {
            first.is_ascii_alphanumeric()
                && last.is_ascii_alphanumeric()
                && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        }
        _ => false,
    }
}

/// As upstream checks a `generateName`: a dash at the end, and what is before it, stand for letters to come.
fn masked(name: &str, prefix: bool) -> std::borrow::Cow<'_, str> {
    match name.strip_suffix('-') {
        Some(stem) if prefix && !stem.is_empty() => {
            let mut end = stem.len() - 1;
            while !stem.is_char_boundary(end) {
                end -= 1;
            }
            format!("{}a", &stem[..end]).into()
        }
        _ => name.into(),
    }
}

/// Faults of `name` as a DNS-1123 subdomain; `prefix` allows a trailing dash, as for `generateName`.
pub fn dns_subdomain(name: &str, prefix: bool) -> Vec<String> {
    subdomain(&masked(name, prefix))
}

/// Faults of `name` as a DNS-1123 subdomain, in the words of the kinds whose names are declared as `k8s-long-name`.
pub fn long_name(name: &str, prefix: bool) -> Vec<String> {
    let mut faults = dns_subdomain(name, prefix);
    if name.len() > 253
        && let Some(first) = faults.first_mut()
    {
        *first = max_bytes(253);
    }
    faults
}

/// Faults of `name` as a DNS-1123 label; `prefix` allows a trailing dash.
pub fn dns_label(name: &str, prefix: bool) -> Vec<String> {
    label(&masked(name, prefix))
}

/// Faults of `name` as a DNS-1035 label (as Services before 1.36 needed); `prefix` allows a trailing dash.
pub fn dns_1035_label(name: &str, prefix: bool) -> Vec<String> {
    label_1035(&masked(name, prefix))
}

/// Faults of a name that only has to fit into a path, as RBAC names; `prefix` changes what is checked of dots.
pub fn path_segment(name: &str, prefix: bool) -> Vec<String> {
    if !prefix && (name == "." || name == "..") {
        return vec![format!("may not be '{name}'")];
    }
    ["/", "%"]
        .iter()
        .filter(|part| name.contains(**part))
        .map(|part| format!("may not contain '{part}'"))
        .collect()
}

/// Faults of a DNS-1123 subdomain.
pub fn subdomain(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > 253 {
        faults.push(max_characters(253));
    }
    if !is_subdomain(value) {
        faults.push(pattern_fault(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
            SUBDOMAIN_FMT,
            &["example.com"],
        ));
    }
    faults
}

/// Faults of a DNS-1123 label.
pub fn label(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > 63 {
        faults.push(max_characters(63));
    }
    if !is_label(value) {
        faults.push(if is_subdomain(value) {
            "must not contain dots".to_owned()
        } else {
            pattern_fault(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
                LABEL_FMT,
                &["my-name", "123-abc"],
            )
        });
    }
    faults
}

/// Faults of a DNS-1035 label.
pub fn label_1035(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > 63 {
        faults.push(max_characters(63));
    }
    if !is_label(value) || !value.starts_with(|c: char| c.is_ascii_lowercase()) {
        faults.push(pattern_fault(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    faults
}

/// Faults of a DNS-1123 subdomain that may contain underscores, as DNS search paths may.
pub fn subdomain_with_underscore(value: &str) -> Vec<String> {
    let part = |text: &str| {
        let text = text.strip_prefix('_').unwrap_or(text);
        let bytes = text.as_bytes();
        bytes.first().is_some_and(|&b| lower_or_digit(b))
            && bytes.last().is_some_and(|&b| lower_or_digit(b))
            && bytes.iter().all(|&b| lower_or_digit(b) || b == b'-' || b == b'_')
    };
    let mut faults = Vec::new();
    if value.len() > 253 {
        faults.push(max_characters(253));
    }
    if !value.split('.').all(part) {
        faults.push(pattern_fault(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character",
            "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*",
            &["example.com"],
        ));
    }
    faults
}

/// Faults of a wildcard host such as `*.example.com`.
pub fn wildcard_subdomain(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > 253 {
        faults.push(max_characters(253));
    }
    if !value.strip_prefix("*.").is_some_and(is_subdomain) {
        faults.push(pattern_fault(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            &format!("\\*\\.{SUBDOMAIN_FMT}"),
            &["*.example.com"],
        ));
    }
    faults
}

/// Faults of a qualified name: a label key, finalizer, resource or condition name, with an optional domain prefix.
pub fn qualified_name(value: &str) -> Vec<String> {
    const NAME: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
    const EXAMPLES: &[&str] = &["MyName", "my.name", "123-abc"];
    let mut faults = Vec::new();
    let name = match value.split_once('/') {
        None => value,
        Some((_, name)) if name.contains('/') => {
            let fault = pattern_fault(NAME, QUALIFIED_FMT, EXAMPLES);
            return vec![format!(
                "a valid label key {fault} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
        Some(("", name)) => {
            faults.push("prefix part must be non-empty".to_owned());
            name
        }
        Some((prefix, name)) => {
            if prefix.len() > 253 {
                faults.push(format!("prefix part {}", max_bytes(253)));
            }
            if !is_subdomain(prefix) {
                faults.extend(subdomain(prefix).pop().map(|fault| format!("prefix part {fault}")));
            }
            name
        }
    };
    if name.is_empty() {
        faults.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        faults.push(format!("name part {}", max_bytes(63)));
    }
    if !is_qualified_part(name) {
        faults.push(format!("name part {}", pattern_fault(NAME, QUALIFIED_FMT, EXAMPLES)));
    }
    faults
}

/// Faults of a label's value.
pub fn label_value(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > 63 {
        faults.push(max_bytes(63));
    }
    if !value.is_empty() && !is_qualified_part(value) {
        faults.push(pattern_fault(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?",
            &["MyValue", "my_value", "12345"],
        ));
    }
    faults
}

/// Faults of a C identifier.
pub fn c_identifier(value: &str) -> Vec<String> {
    let good = value.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if good {
        return Vec::new();
    }
    vec![pattern_fault(
        "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'",
        "[A-Za-z_][A-Za-z0-9_]*",
        &["my_name", "MY_NAME", "MyName"],
    )]
}

/// Faults of a path with a domain before it, such as `acme.io/foo`; the host and the rest are judged apart.
pub fn domain_prefixed_path(value: &str, path: &Path<'_>, errors: &mut Errors) {
    if value.is_empty() {
        errors.required(path, "");
        return;
    }
    let Some((host, rest)) =
        value.split_once('/').filter(|(host, rest)| !host.is_empty() && !rest.is_empty())
    else {
        errors.invalid(path, value, "must be a domain-prefixed path (such as \"acme.io/foo\")");
        return;
    };
    for fault in subdomain(host) {
        errors.invalid(path, host, &fault);
    }
    if !rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b)) {
        let fault = pattern_fault("Invalid path", "[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+", &[]);
        errors.invalid(path, rest, &fault);
    }
}

/// Tells the faults of a DNS-1123 subdomain that may be empty.
pub(crate) fn optional_subdomain(value: &str, path: &Path<'_>, errors: &mut Errors) {
    if value.is_empty() {
        return;
    }
    for fault in subdomain(value) {
        errors.invalid(path, value, &fault);
    }
}

/// Tells of a name that is not there, in the words of `detail`, which may be empty, or does not fit into a path.
pub(crate) fn required_segment(name: &str, detail: &str, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        errors.required(path, detail);
    }
    for fault in path_segment(name, false) {
        errors.invalid(path, name, &fault);
    }
}

/// Whether `*` is in a list of a rule; tells of it if it is not alone there. `others`: what the list holds.
pub(crate) fn lone_star(items: &[Value], others: &str, path: &Path<'_>, errors: &mut Errors) -> bool {
    let starred = items.iter().any(|item| item == "*");
    if starred && items.len() > 1 {
        errors.invalid(path, items, &format!("if '*' is present, must not specify other {others}"));
    }
    starred
}

/// Faults of a port number.
pub fn port_number(port: i64) -> Option<String> {
    (!(1..=65535).contains(&port)).then(|| range_fault(1, 65535))
}

/// Faults of a user or group id.
pub fn user_id(id: i64) -> Option<String> {
    (!(0..=i64::from(i32::MAX)).contains(&id)).then(|| range_fault(0, i64::from(i32::MAX)))
}

/// Faults of a port's name as probes and target ports refer to it.
pub fn port_name(name: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if name.len() > 15 {
        faults.push(max_characters(15));
    }
    if name.is_empty() || !name.bytes().all(|b| lower_or_digit(b) || b == b'-') {
        faults.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !name.bytes().any(|b| b.is_ascii_lowercase()) {
        faults.push("must contain at least one letter (a-z)".to_owned());
    }
    if name.contains("--") {
        faults.push("must not contain consecutive hyphens".to_owned());
    }
    if name.starts_with('-') || name.ends_with('-') {
        faults.push("must not begin or end with a hyphen".to_owned());
    }
    faults
}

/// Faults of a percentage such as `25%`.
pub fn percent(value: &str) -> Option<String> {
    let digits = value.strip_suffix('%').unwrap_or_default();
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(pattern_fault(
        "a valid percent string must be a numeric string followed by an ending '%'",
        "[0-9]+%",
        &["1%", "93%"],
    ))
}

/// Faults of an HTTP header's name.
pub fn http_header_name(value: &str) -> Option<String> {
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return None;
    }
    Some(pattern_fault(
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        "[-A-Za-z0-9]+",
        &["X-Header-Name"],
    ))
}

/// Faults of an environment variable's name: any printable ASCII but `=`.
pub fn env_name(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.is_empty() {
        faults.push("environment variable name must be non-empty".to_owned());
    }
    if value.bytes().any(|b| !(0x20..0x7f).contains(&b) || b == b'=') {
        faults.push(
            "a valid environment variable name must consist only of printable ASCII characters other than '='"
                .to_owned(),
        );
    }
    faults
}

/// Faults of a key of a ConfigMap or Secret.
pub fn config_key(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > 253 {
        faults.push(max_characters(253));
    }
    if value.is_empty()
        || !value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    {
        faults.push(pattern_fault(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    if value == "." || value == ".." {
        faults.push(format!("must not be '{value}'"));
    } else if value.starts_with("..") {
        faults.push("must not start with '..'".to_owned());
    }
    faults
}

/// The address, or upstream's fault: malformed, leading zeros, or IPv4 mapped into IPv6.
pub fn ip(value: &str) -> Result<IpAddr, &'static str> {
    match value.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => Err("must not be an IPv4-mapped IPv6 address"),
        Ok(ip) => Ok(ip),
        Err(_) if sloppy_ipv4(value).is_some() => Err("must not have leading 0s"),
        Err(_) => Err("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
    }
}

/// What is odd about an address that may stand where it stands. Source: `GetWarningsForIP` of apimachinery.
pub(crate) fn ip_warning(path: &str, value: &str) -> Option<String> {
    let wanted = match value.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) => match v6.to_ipv4_mapped() {
            Some(v4) => v4.to_string(),
            None if v6.to_string() == value => return None,
            None => {
                return Some(format!(
                    "{path}: IPv6 address {value:?} should be in RFC 5952 canonical format (\"{v6}\")"
                ));
            }
        },
        Ok(IpAddr::V4(_)) => return None,
        Err(_) => sloppy_ipv4(value)?.to_string(),
    };
    Some(format!("{path}: non-standard IP address {value:?} is invalid: use {wanted:?}"))
}

/// An IPv4 address whose octets may have leading zeros, read as decimal.
fn sloppy_ipv4(value: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut parts = value.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || part.len() > 12 || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *octet = part
            .trim_start_matches('0')
            .parse()
            .or_else(|_| if part.bytes().all(|b| b == b'0') { Ok(0) } else { Err(()) })
            .ok()?;
    }
    parts.next().is_none().then(|| octets.into())
}

/// The network and prefix length of a CIDR, or upstream's fault.
pub fn cidr(value: &str) -> Result<(IpAddr, u8), &'static str> {
    const MALFORMED: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
    let (address, length) = value.split_once('/').ok_or(MALFORMED)?;
    let zeros = length.len() > 1 && length.starts_with('0');
    let sloppy = address.parse::<IpAddr>().is_err();
    let address: IpAddr = match address.parse() {
        Ok(address) => address,
        Err(_) => sloppy_ipv4(address).ok_or(MALFORMED)?.into(),
    };
    if length.is_empty() || !length.bytes().all(|b| b.is_ascii_digit()) {
        return Err(MALFORMED);
    }
    let bits: u8 = length.parse().map_err(|_| MALFORMED)?;
    if bits > if address.is_ipv4() { 32 } else { 128 } {
        return Err(MALFORMED);
    }
    if zeros || sloppy {
        return Err("must not have leading 0s in IP or prefix length");
    }
    match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            return Err("must not have an IPv4-mapped IPv6 address");
        }
        IpAddr::V4(v4) if bits < 32 && u32::from(v4) & (u32::MAX >> bits) != 0 => {
            return Err("must not have bits set beyond the prefix length");
        }
        IpAddr::V6(v6) if bits < 128 && u128::from(v6) & (u128::MAX >> bits) != 0 => {
            return Err("must not have bits set beyond the prefix length");
        }
        _ => {}
    }
    Ok((address, bits))
}

#[cfg(test)]
mod tests;
