//! ClusterTrustBundles: their names, and what a bundle may hold.
//! Source: `pkg/registry/certificates/clustertrustbundle`, `ValidateClusterTrustBundle`.

use std::collections::BTreeMap;

use serde_json::Value;
use x509_parser::parse_x509_certificate;

use super::signer;
use crate::field::{Errors, Path};
use crate::kinds::kind::Kind;
use crate::kinds::print::{NAME, name, or, string};
use crate::kinds::tree::{text, value};
use crate::kinds::validate::{dns_subdomain, meta::immutable, path_segment};
use crate::pem;

/// The longest bundle.
const BUNDLE_MAX: usize = 1024 * 1024;

pub(crate) static TRUST_BUNDLE: Kind = Kind {
    // The rest depends on the signer.
    name: path_segment,
    validate: |object, errors| {
        names(object, errors);
        let spec = value(object, "spec");
        let path = Path::new("spec");
        bundle(text(spec, "trustBundle"), &path.child("trustBundle"), errors);
    },
    validate_late: |new, old, errors| {
        let path = Path::new("spec");
        let signer_of = |object| value(value(object, "spec"), "signerName");
        immutable(signer_of(new), signer_of(old), &path.child("signerName"), errors);
    },
    fields: |object| vec![("spec.signerName", text(value(object, "spec"), "signerName").to_owned())],
    columns: &[NAME, string("SignerName")],
    row: |object, _| vec![name(object), or(text(value(object, "spec"), "signerName"), "<none>").into()],
    unconditional_update: false,
    ..Kind::BASE
};

fn names(object: &Value, errors: &mut Errors) {
    let signer_name = text(value(object, "spec"), "signerName");
    let metadata = value(object, "metadata");
    let path = Path::new("metadata");
    for (field, prefix) in [("generateName", true), ("name", false)] {
        let given = text(metadata, field);
        // A name may be made yet.
        if given.is_empty() {
            continue;
        }
        for fault in name_faults(signer_name, given, prefix) {
            errors.invalid(&path.child(field), given, &fault);
        }
    }
    if !signer_name.is_empty() {
        signer(signer_name, &Path::new("spec").child("signerName"), errors);
    }
}

/// Faults of a bundle's name, given its signer or nothing: the name of a signer's bundle begins with the signer's.
fn name_faults(signer_name: &str, name: &str, prefix: bool) -> Vec<String> {
    if signer_name.is_empty() {
        if name.contains(':') {
            return vec!["ClusterTrustBundle without signer name must not have \":\" in its name".to_owned()];
        }
        return dns_subdomain(name, prefix);
    }
    let required = format!("{}:", signer_name.replace('/', ":"));
    match name.strip_prefix(&required) {
        Some(rest) => dns_subdomain(rest, prefix),
        None => vec![format!(
            "ClusterTrustBundle for signerName {signer_name} must be named with prefix {required}"
        )],
    }
}

/// Faults of a name by which something refers to a bundle, whose signer is read from the name.
pub(crate) fn reference_faults(name: &str) -> Vec<String> {
    let signer_name = name.rsplit_once(':').map(|(signer, _)| signer.replace(':', "/")).unwrap_or_default();
    name_faults(&signer_name, name, false)
}

/// At least one certificate of an authority, each once, and nothing else in blocks.
fn bundle(content: &str, path: &Path<'_>, errors: &mut Errors) {
    if content.len() > BUNDLE_MAX {
        errors.too_long(path, BUNDLE_MAX);
        return;
    }
    let before = errors.0.len();
    let mut invalid = |why: String| errors.invalid(path, "<value omitted>", &why);
    let mut seen: BTreeMap<Vec<u8>, Vec<usize>> = BTreeMap::new();
    for (index, block) in pem::blocks(content).into_iter().enumerate() {
        match block_fault(&block) {
            Some(fault) => invalid(format!("entry {index} {fault}")),
            None => seen.entry(block.bytes).or_default().push(index),
        }
    }
    if errors.0.len() > before {
        return;
    }
    let mut invalid = |why: String| errors.invalid(path, "<value omitted>", &why);
    if seen.is_empty() {
        invalid("at least one trust anchor must be provided".to_owned());
    }
    for indices in seen.values().filter(|indices| indices.len() > 1) {
        let indices: Vec<String> = indices.iter().map(ToString::to_string).collect();
        invalid(format!("duplicate trust anchor (indices [{}])", indices.join(" ")));
    }
}

fn block_fault(block: &pem::Block) -> Option<String> {
    if block.label != "CERTIFICATE" {
        return Some(format!("has bad block type: {}", block.label));
    }
    if block.has_headers {
        return Some("has PEM block headers".to_owned());
    }
    let certificate = match parse_x509_certificate(&block.bytes) {
        Ok(([], certificate)) => certificate,
        _ => return Some("does not parse as X.509".to_owned()),
    };
    let authority = certificate.basic_constraints().ok().flatten().is_some_and(|found| found.value.ca);
    (!authority).then(|| "does not have the CA bit set".to_owned())
}
