//! Who may have an image that is here already: pure. An image that was pulled with somebody's credentials is given only to
//! pods that have them.
//!
//! Source: KEP-2535; `pkg/kubelet/images/pullmanager` of v1.36, whose kinds of `kubelet.config.k8s.io/v1beta1` these are.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::Configuration;

/// From so many secrets on, what was found out without a pull is not written any more. Upstream's number: namespaces that come
/// and go would else make records grow without end.
const MOST_FOUND_SECRETS: usize = 100;

/// Which images need no credentials, of `imagePullCredentialsVerificationPolicy`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Policy {
    NeverVerify,
    /// Those that no kubelet pulled.
    NeverVerifyPreloadedImages,
    NeverVerifyAllowlistedImages {
        /// Whole names without tag and digest.
        names: BTreeSet<String>,
        /// What names begin with, up to a slash.
        prefixes: Vec<String>,
    },
    AlwaysVerify,
}

impl Policy {
    /// What a configuration says; the error is in upstream's words.
    pub(crate) fn of(settings: &Configuration) -> Result<Self, String> {
        let list = &settings.preloaded_images_verification_allowlist;
        let policy = match settings.image_pull_credentials_verification_policy.as_str() {
            "NeverVerify" => Self::NeverVerify,
            "NeverVerifyPreloadedImages" => Self::NeverVerifyPreloadedImages,
            "AlwaysVerify" => Self::AlwaysVerify,
            "NeverVerifyAllowlistedImages" => {
                let (mut names, mut prefixes) = (BTreeSet::new(), Vec::new());
                for pattern in list {
                    let read = read_pattern(pattern).map_err(|why| {
                        format!("invalid image pattern in `preloadedImagesVerificationAllowlist`: {why}")
                    })?;
                    match read {
                        Pattern::Name(name) => drop(names.insert(name)),
                        Pattern::Prefix(prefix) => prefixes.push(prefix),
                    }
                }
                return Ok(Self::NeverVerifyAllowlistedImages { names, prefixes });
            }
            other => {
                return Err(format!(
                    "option {other:?} specified for imagePullCredentialsVerificationPolicy. Valid options are \"NeverVerify\", \"NeverVerifyPreloadedImages\", \"NeverVerifyAllowlistedImages\" or \"AlwaysVerify\""
                ));
            }
        };
        if !list.is_empty() {
            return Err(
                "can't set `preloadedImagesVerificationAllowlist` if `imagePullCredentialsVertificationPolicy` is not \"NeverVerifyAllowlistedImages\""
                    .to_owned(),
            );
        }
        Ok(policy)
    }

    fn verifies(&self, image: &str, pulled_by_kubelet: bool) -> bool {
        match self {
            Self::NeverVerify => false,
            Self::NeverVerifyPreloadedImages => pulled_by_kubelet,
            Self::AlwaysVerify => true,
            Self::NeverVerifyAllowlistedImages { names, prefixes } => {
                let name = without_tag_and_digest(image);
                !names.contains(name) && !prefixes.iter().any(|prefix| name.starts_with(prefix))
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Pattern {
    Name(String),
    Prefix(String),
}

fn read_pattern(pattern: &str) -> Result<Pattern, String> {
    if pattern != pattern.trim() {
        return Err(format!("leading/trailing spaces are not allowed: {pattern}"));
    }
    let prefix = pattern.strip_suffix('*').filter(|prefix| prefix.ends_with('/'));
    let bare = prefix.unwrap_or(pattern);
    if bare.is_empty() {
        return Err(format!("the supplied pattern is too short: {pattern}"));
    }
    if bare.contains('*') {
        return Err(format!(
            "not a valid wildcard pattern, only patterns ending with '/*' are allowed: {pattern}"
        ));
    }
    match prefix {
        Some("/") => Err("at least registry hostname is required".to_owned()),
        Some(prefix) => Ok(Pattern::Prefix(prefix.to_owned())),
        None => {
            podium_cri::normalize_image_name(pattern)
                .map_err(|error| format!("failed to parse as an image name: {error}"))?;
            if without_tag_and_digest(pattern) != pattern {
                return Err(format!("neither tag nor digest is accepted in an image reference: {pattern}"));
            }
            Ok(Pattern::Name(pattern.to_owned()))
        }
    }
}

/// A name as a pod has it, up to its tag or digest: what credentials are recorded for.
pub(crate) fn without_tag_and_digest(image: &str) -> &str {
    let name = image.split('@').next().unwrap_or_default();
    match name.rfind(':') {
        Some(colon) if !name[colon..].contains('/') => &name[..colon],
        _ => name,
    }
}

/// A secret that an image was pulled with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct PullSecret {
    pub(crate) uid: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// SHA-256 of the credentials, in hexadecimal digits.
    pub(crate) credential_hash: String,
}

impl PullSecret {
    fn is_same_object(&self, other: &Self) -> bool {
        (&self.uid, &self.namespace, &self.name) == (&other.uid, &other.namespace, &other.name)
    }
}

/// A service account whose token a credential plugin got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PullServiceAccount {
    pub(crate) uid: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// Whose credentials a pull used, where not every pod of the node has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    Secret(PullSecret),
    Account(PullServiceAccount),
}

impl From<PullSecret> for Source {
    fn from(secret: PullSecret) -> Self {
        Self::Secret(secret)
    }
}

impl From<PullServiceAccount> for Source {
    fn from(account: PullServiceAccount) -> Self {
        Self::Account(account)
    }
}

/// What one name of an image was pulled with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct PullCredentials {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) kubernetes_secrets: Vec<PullSecret>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) kubernetes_service_accounts: Vec<PullServiceAccount>,
    /// Any pod of the node has what is needed. The lists are empty then.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) node_pods_accessible: bool,
}

impl PullCredentials {
    /// Of a pull with credentials of this source, or, with None, with what every pod of the node has.
    pub(crate) fn of(source: Option<Source>) -> Self {
        match source {
            None => Self { node_pods_accessible: true, ..Self::default() },
            Some(Source::Secret(secret)) => Self { kubernetes_secrets: vec![secret], ..Self::default() },
            Some(Source::Account(account)) => {
                Self { kubernetes_service_accounts: vec![account], ..Self::default() }
            }
        }
    }

    /// Adds what another pull used. True if that says something new.
    fn merge(&mut self, new: Self) -> bool {
        if self.node_pods_accessible {
            return false;
        }
        if new.node_pods_accessible {
            *self = new;
            return true;
        }
        let before = self.kubernetes_secrets.clone();
        for secret in new.kubernetes_secrets {
            self.kubernetes_secrets.retain(|known| !known.is_same_object(&secret));
            self.kubernetes_secrets.push(secret);
        }
        self.kubernetes_secrets
            .sort_by(|a, b| (&a.namespace, &a.name, &a.uid).cmp(&(&b.namespace, &b.name, &b.uid)));
        let known = self.kubernetes_service_accounts.len();
        for account in new.kubernetes_service_accounts {
            if !self.kubernetes_service_accounts.contains(&account) {
                self.kubernetes_service_accounts.push(account);
            }
        }
        self.kubernetes_service_accounts
            .sort_by(|a, b| (&a.namespace, &a.name, &a.uid).cmp(&(&b.namespace, &b.name, &b.uid)));
        self.kubernetes_secrets != before || self.kubernetes_service_accounts.len() != known
    }
}

/// By names without tag and digest, as pods have them.
pub(crate) type CredentialMapping = BTreeMap<String, PullCredentials>;

/// Adds what a pull of an image by this name used. True if that says something new.
pub(crate) fn merge(mapping: &mut CredentialMapping, image: &str, new: PullCredentials) -> bool {
    let name = without_tag_and_digest(image);
    match mapping.get_mut(name) {
        Some(known) => known.merge(new),
        None => mapping.insert(name.to_owned(), new).is_none(),
    }
}

/// What records say of an image that is here.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Trace<'a> {
    /// Nothing: no kubelet pulled it.
    None,
    /// A kubelet began to pull it, and nobody wrote down what came of it.
    Begun,
    Pulled(&'a CredentialMapping),
    /// There is a record that cannot be read.
    Unreadable,
}

/// Whether a pod may have an image that is here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Given,
    /// It may, and this secret of it is to be written down: it is a copy of one that is known, or a known one that changed.
    GivenFor(PullSecret),
    /// Only the registry can tell.
    MustPull,
}

/// Whether a pod's service account may open an image: to find out whether plugins have credentials for it is dear.
pub(crate) fn is_of_accounts(policy: &Policy, image: &str, trace: Trace<'_>) -> bool {
    let Trace::Pulled(mapping) = trace else { return false };
    let known = mapping.get(without_tag_and_digest(image));
    policy.verifies(image, true) && known.is_some_and(|known| !known.kubernetes_service_accounts.is_empty())
}

/// The decision. `secrets`: those of the pod that fit the image. `account`: the pod's, if a plugin has credentials for the
/// image by it.
pub(crate) fn judge(
    policy: &Policy,
    image: &str,
    trace: Trace<'_>,
    secrets: impl FnOnce() -> Vec<PullSecret>,
    account: Option<&PullServiceAccount>,
) -> Verdict {
    let mapping = match trace {
        // Whatever the policy: a pull writes the record anew.
        Trace::Unreadable => return Verdict::MustPull,
        _ if !policy.verifies(image, !matches!(trace, Trace::None)) => return Verdict::Given,
        Trace::None | Trace::Begun => return Verdict::MustPull,
        Trace::Pulled(mapping) => mapping,
    };
    let Some(known) = mapping.get(without_tag_and_digest(image)) else { return Verdict::MustPull };
    if known.node_pods_accessible {
        return Verdict::Given;
    }
    let (known, accounts) = (&known.kubernetes_secrets, &known.kubernetes_service_accounts);
    if known.is_empty() && accounts.is_empty() {
        return Verdict::MustPull;
    }
    let room = known.len() < MOST_FOUND_SECRETS;
    for secret in secrets() {
        for one in known {
            let (same_hash, same_object) =
                (one.credential_hash == secret.credential_hash, one.is_same_object(&secret));
            // Upstream's writes no hash if it cannot make one.
            match (same_hash && !one.credential_hash.is_empty(), same_object) {
                (true, true) => return Verdict::Given,
                (true, false) if !room => return Verdict::Given,
                (true, false) => return Verdict::GivenFor(secret),
                (false, true) if room => return Verdict::GivenFor(secret),
                (false, _) => {}
            }
        }
    }
    let ours = account.is_some_and(|account| accounts.contains(account));
    if ours { Verdict::Given } else { Verdict::MustPull }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;

    fn secret(name: &str, hash: &str) -> PullSecret {
        PullSecret {
            uid: format!("uid-of-{name}"),
            namespace: "default".into(),
            name: name.into(),
            credential_hash: hash.into(),
        }
    }

    fn settings(policy: &str, list: &[&str]) -> Configuration {
        Configuration {
            image_pull_credentials_verification_policy: policy.to_owned(),
            preloaded_images_verification_allowlist: list.iter().map(|one| (*one).to_owned()).collect(),
            ..Configuration::default()
        }
    }

    #[test]
    fn policies_say_which_images_are_verified() {
        let check = |policy: &str, list: &[&str], image: &str, pulled: bool, wanted: bool| {
            let read = Policy::of(&settings(policy, list)).unwrap();
            assert_eq!(read.verifies(image, pulled), wanted, "{policy} {list:?} {image} {pulled}");
        };
        for pulled in [false, true] {
            check("NeverVerify", &[], "app", pulled, false);
            check("NeverVerifyPreloadedImages", &[], "app", pulled, pulled);
            check("AlwaysVerify", &[], "app", pulled, true);
            let list = ["r.io/team/app", "r.io:5000/*"];
            for (image, verified) in [
                ("r.io/team/app", false),
                ("r.io/team/app:v1", false),
                ("r.io/team/app:v1@sha256:ab", false),
                ("r.io/team/app2", true),
                ("r.io/team", true),
                ("r.io:5000/any/thing:v2", false),
                ("r.io:50001/any", true),
            ] {
                check("NeverVerifyAllowlistedImages", &list, image, pulled, verified);
            }
        }
        assert_eq!(Policy::of(&Configuration::default()), Ok(Policy::NeverVerifyPreloadedImages));
    }

    #[test]
    fn policies_are_checked() {
        for (policy, list, wanted) in [
            ("Sometimes", &[][..], "option \"Sometimes\" specified for"),
            ("AlwaysVerify", &["r.io/app"], "can't set `preloadedImagesVerificationAllowlist`"),
            ("NeverVerifyAllowlistedImages", &[" r.io/app"], "leading/trailing spaces"),
            ("NeverVerifyAllowlistedImages", &[""], "too short"),
            ("NeverVerifyAllowlistedImages", &["r.io/a*"], "not a valid wildcard"),
            ("NeverVerifyAllowlistedImages", &["*/app/*"], "not a valid wildcard"),
            ("NeverVerifyAllowlistedImages", &["/*"], "at least registry hostname"),
            ("NeverVerifyAllowlistedImages", &["r.io/app:v1"], "neither tag nor digest"),
            ("NeverVerifyAllowlistedImages", &["r.io/App"], "failed to parse"),
        ] {
            let error = Policy::of(&settings(policy, list)).unwrap_err();
            assert!(error.contains(wanted), "{error}");
        }
    }

    #[test]
    fn images_are_given_to_pods_that_have_the_credentials() {
        let check = |known: Option<PullCredentials>, have: &[PullSecret], wanted: Verdict| {
            let mapping: CredentialMapping =
                known.into_iter().map(|known| ("r.io/app".to_owned(), known)).collect();
            let policy = Policy::NeverVerifyPreloadedImages;
            let verdict = judge(&policy, "r.io/app:v1", Trace::Pulled(&mapping), || have.to_vec(), None);
            assert_eq!(verdict, wanted, "{mapping:?} {have:?}");
        };
        let (ours, copy, changed) = (secret("ours", "1"), secret("copy", "1"), secret("ours", "2"));
        let of_ours = || Some(PullCredentials::of(Some(ours.clone().into())));
        check(None, from_ref(&ours), Verdict::MustPull);
        check(Some(PullCredentials::of(None)), &[], Verdict::Given);
        check(Some(PullCredentials::default()), from_ref(&ours), Verdict::MustPull);
        check(of_ours(), &[], Verdict::MustPull);
        check(of_ours(), &[secret("theirs", "9")], Verdict::MustPull);
        check(of_ours(), &[secret("theirs", "9"), ours.clone()], Verdict::Given);
        check(of_ours(), from_ref(&copy), Verdict::GivenFor(copy.clone()));
        check(of_ours(), from_ref(&changed), Verdict::GivenFor(changed.clone()));
        // An object made anew by the same name is another one.
        let reborn = PullSecret { uid: "new".into(), ..changed.clone() };
        check(of_ours(), &[reborn], Verdict::MustPull);
        // No hash equals no hash.
        check(Some(PullCredentials::of(Some(secret("a", "").into()))), &[secret("b", "")], Verdict::MustPull);
        let mut full = PullCredentials::of(Some(ours.clone().into()));
        for number in 1..MOST_FOUND_SECRETS {
            full.merge(PullCredentials::of(Some(
                secret(&format!("s{number}"), &format!("h{number}")).into(),
            )));
        }
        check(Some(full.clone()), &[copy], Verdict::Given);
        check(Some(full), &[changed], Verdict::MustPull);
    }

    #[test]
    fn images_are_given_to_pods_of_the_service_account() {
        let account = |name: &str, uid: &str| PullServiceAccount {
            uid: uid.into(),
            namespace: "default".into(),
            name: name.into(),
        };
        let (bot, reborn, other) = (account("bot", "1"), account("bot", "2"), account("other", "1"));
        let mut mapping = CredentialMapping::new();
        assert!(merge(&mut mapping, "app", PullCredentials::of(Some(bot.clone().into()))));
        assert!(!merge(&mut mapping, "app", PullCredentials::of(Some(bot.clone().into()))), "nothing new");
        let policy = Policy::NeverVerifyPreloadedImages;
        let judged =
            |mapping: &CredentialMapping, have: Vec<PullSecret>, account: Option<&PullServiceAccount>| {
                judge(&policy, "app:v1", Trace::Pulled(mapping), || have, account)
            };
        assert!(is_of_accounts(&policy, "app:v1", Trace::Pulled(&mapping)));
        assert!(!is_of_accounts(&Policy::NeverVerify, "app:v1", Trace::Pulled(&mapping)));
        assert!(!is_of_accounts(&policy, "other", Trace::Pulled(&mapping)));
        assert_eq!(judged(&mapping, vec![], Some(&bot)), Verdict::Given);
        for other in [None, Some(&reborn), Some(&other)] {
            assert_eq!(judged(&mapping, vec![secret("s", "1")], other), Verdict::MustPull, "{other:?}");
        }
        // Secrets and accounts stand side by side.
        assert!(merge(&mut mapping, "app", PullCredentials::of(Some(secret("s", "1").into()))));
        assert!(
            merge(&mut mapping, "app", PullCredentials::of(Some(reborn.clone().into()))),
            "another of its name"
        );
        assert_eq!(mapping["app"].kubernetes_service_accounts, [bot, reborn.clone()]);
        assert_eq!(judged(&mapping, vec![secret("s", "1")], None), Verdict::Given);
        assert_eq!(judged(&mapping, vec![], Some(&reborn)), Verdict::Given);
        assert!(merge(&mut mapping, "app", PullCredentials::of(None)));
        assert_eq!(mapping["app"], PullCredentials::of(None));
    }

    #[test]
    fn images_without_a_record_are_preloaded_or_have_to_be_pulled() {
        let mapping = CredentialMapping::from([("app".to_owned(), PullCredentials::of(None))]);
        let unasked = || -> Vec<PullSecret> { panic!("credentials are looked for only if they are needed") };
        for (policy, trace, wanted) in [
            (Policy::NeverVerifyPreloadedImages, Trace::None, Verdict::Given),
            (Policy::NeverVerifyPreloadedImages, Trace::Begun, Verdict::MustPull),
            (Policy::NeverVerifyPreloadedImages, Trace::Unreadable, Verdict::MustPull),
            (Policy::NeverVerifyPreloadedImages, Trace::Pulled(&mapping), Verdict::Given),
            (Policy::AlwaysVerify, Trace::None, Verdict::MustPull),
            (Policy::AlwaysVerify, Trace::Pulled(&mapping), Verdict::Given),
            (Policy::NeverVerify, Trace::Begun, Verdict::Given),
            (Policy::NeverVerify, Trace::Unreadable, Verdict::MustPull),
        ] {
            assert_eq!(judge(&policy, "app", trace, unasked, None), wanted, "{policy:?} {trace:?}");
        }
    }

    #[test]
    fn credentials_of_pulls_add_up() {
        let mut mapping = CredentialMapping::new();
        let mut pulled = |image: &str, with: Option<PullSecret>| {
            merge(&mut mapping, image, PullCredentials::of(with.map(Source::from)))
        };
        assert!(pulled("app:v1", Some(secret("b", "1"))));
        assert!(!pulled("app@sha256:ab", Some(secret("b", "1"))), "nothing new");
        assert!(pulled("app", Some(secret("a", "2"))));
        assert!(pulled("app", Some(secret("b", "3"))), "it changed");
        assert!(pulled("r.io/app", None));
        assert!(!pulled("r.io/app", Some(secret("a", "2"))), "anybody may have it");
        let known = &mapping["app"].kubernetes_secrets;
        assert_eq!(known, &[secret("a", "2"), secret("b", "3")]);
        assert!(merge(&mut mapping, "app", PullCredentials::of(None)));
        assert_eq!(mapping["app"], PullCredentials::of(None));
    }
}
