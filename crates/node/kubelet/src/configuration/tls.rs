//! `tlsMinVersion` and `tlsCipherSuites`: what the kubelet's server offers of what rustls has.
//!
//! As with Go, suites are chosen among those of TLS 1.2; those of 1.3 are always offered. What Go calls insecure is not
//! built here, and versions before 1.2 neither.

use rustls::{
    CipherSuite, SupportedProtocolVersion,
    crypto::CryptoProvider,
    version::{TLS12, TLS13},
};

use super::Configuration;

const MIN_12: &str = "VersionTLS12";
const MIN_13: &str = "VersionTLS13";

/// By the names that Go and Kubernetes give them; two have an old name beside.
const SUITES: [(&str, CipherSuite); 11] = [
    ("TLS_AES_128_GCM_SHA256", CipherSuite::TLS13_AES_128_GCM_SHA256),
    ("TLS_AES_256_GCM_SHA384", CipherSuite::TLS13_AES_256_GCM_SHA384),
    ("TLS_CHACHA20_POLY1305_SHA256", CipherSuite::TLS13_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

fn suite(name: &str) -> Option<CipherSuite> {
    SUITES.iter().find(|(known, _)| *known == name).map(|(_, suite)| *suite)
}

/// What is wrong with the two fields.
pub(super) fn check(read: &Configuration) -> Vec<String> {
    let mut wrong: Vec<String> = read
        .tls_cipher_suites
        .iter()
        .filter(|name| suite(name).is_none())
        .map(|name| format!("tlsCipherSuites: cipher suite {name} not supported or doesn't exist"))
        .collect();
    if ![MIN_12, MIN_13].contains(&read.tls_min_version.as_str()) {
        wrong.push(format!(
            "tlsMinVersion {} is not supported: only {MIN_12} and {MIN_13} are",
            read.tls_min_version
        ));
    }
    wrong
}

impl Configuration {
    /// The versions of TLS that the server speaks.
    pub(crate) fn tls_versions(&self) -> &'static [&'static SupportedProtocolVersion] {
        static FROM_12: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];
        if self.tls_min_version == MIN_13 { &FROM_12[1..] } else { &FROM_12 }
    }

    /// Takes the suites of TLS 1.2 out that are not asked for; none asked for is all.
    pub(crate) fn limit_suites(&self, provider: &mut CryptoProvider) {
        let asked: Vec<CipherSuite> = self.tls_cipher_suites.iter().filter_map(|name| suite(name)).collect();
        provider
            .cipher_suites
            .retain(|one| one.tls13().is_some() || asked.is_empty() || asked.contains(&one.suite()));
    }
}
