//! The few forms of DER (X.690) that a certificate is made of.

use jiff::Timestamp;
use x509_parser::prelude::X509Certificate;

use crate::Error;

/// Tag, length, contents.
pub(super) fn tagged(tag: u8, contents: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    let length = contents.len();
    if let Some(short) = u8::try_from(length).ok().filter(|short| *short < 0x80) {
        bytes.push(short);
    } else {
        let big = length.to_be_bytes();
        let significant: Vec<u8> = big.iter().copied().skip_while(|byte| *byte == 0).collect();
        // At most eight bytes, so the count fits beside the bit that says that it is one.
        bytes.push(0x80 | u8::try_from(significant.len()).unwrap_or(8));
        bytes.extend(significant);
    }
    bytes.extend_from_slice(contents);
    bytes
}

pub(super) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tagged(0x30, &parts.concat())
}

/// An explicitly tagged, constructed, context-specific value.
pub(super) fn explicit(number: u8, contents: &[u8]) -> Vec<u8> {
    tagged(0xa0 | number, contents)
}

/// A positive integer from its big-endian bytes, the first of which must not have its top bit set.
pub(super) fn integer(bytes: &[u8]) -> Vec<u8> {
    tagged(0x02, bytes)
}

pub(super) fn bit_string(unused: u8, bytes: &[u8]) -> Vec<u8> {
    tagged(0x03, &[&[unused], bytes].concat())
}

/// A bit string of named bits: trailing zeros are left out.
pub(super) fn named_bits(bits: u16) -> Vec<u8> {
    let bytes = bits.to_be_bytes();
    let used: &[u8] = if bytes[1] == 0 { &bytes[..1] } else { &bytes };
    let unused = used.last().map_or(0, |last| last.trailing_zeros().min(7));
    bit_string(u8::try_from(unused).unwrap_or(0), used)
}

pub(super) fn oid(arcs: &[u64]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let first = arcs[0] * 40 + arcs[1];
    for arc in std::iter::once(first).chain(arcs[2..].iter().copied()) {
        let mut groups = vec![u8::try_from(arc & 0x7f).unwrap_or(0)];
        let mut rest = arc >> 7;
        while rest > 0 {
            groups.push(0x80 | u8::try_from(rest & 0x7f).unwrap_or(0));
            rest >>= 7;
        }
        bytes.extend(groups.iter().rev());
    }
    tagged(0x06, &bytes)
}

pub(super) fn extension(id: &[u64], critical: bool, value: &[u8]) -> Vec<u8> {
    let value = tagged(0x04, value);
    let truth = if critical { tagged(0x01, &[0xff]) } else { Vec::new() };
    sequence(&[&oid(id), &truth, &value])
}

/// UTCTime until 2049, GeneralizedTime from then on (RFC 5280, 4.1.2.5).
pub(super) fn time(seconds: i64) -> Result<Vec<u8>, Error> {
    let time = Timestamp::from_second(seconds).map_err(|_| Error::Crypto("a time out of range"))?;
    let short = seconds < 2_524_608_000;
    let text = time.strftime(if short { "%y%m%d%H%M%SZ" } else { "%Y%m%d%H%M%SZ" }).to_string();
    Ok(tagged(if short { 0x17 } else { 0x18 }, text.as_bytes()))
}

/// How the key signs. rcgen keeps the identifier to itself, but the authority's own certificate, signed by the same key, names
/// it; an authority that was signed by another one is told by its key's kind.
pub(super) fn signature_algorithm(
    issuer: &X509Certificate<'_>,
    key: &rcgen::KeyPair,
) -> Result<Vec<u8>, Error> {
    let known: [(&rcgen::SignatureAlgorithm, &[u64], bool); 4] = [
        (&rcgen::PKCS_ECDSA_P256_SHA256, &[1, 2, 840, 10045, 4, 3, 2], false),
        (&rcgen::PKCS_ECDSA_P384_SHA384, &[1, 2, 840, 10045, 4, 3, 3], false),
        (&rcgen::PKCS_ED25519, &[1, 3, 101, 112], false),
        (&rcgen::PKCS_RSA_SHA256, &[1, 2, 840, 113_549, 1, 1, 11], true),
    ];
    let found = known.iter().find(|(algorithm, ..)| key.is_compatible(algorithm));
    let Some((_, id, null)) = found else {
        let what = format!("authority {}", issuer.subject());
        return Err(Error::Malformed { what, detail: "its key is of a kind that cannot sign".to_owned() });
    };
    // RSA's identifier has parameters, and they are null (RFC 4055).
    let parameters = if *null { tagged(0x05, &[]) } else { Vec::new() };
    Ok(sequence(&[&oid(id), &parameters]))
}
