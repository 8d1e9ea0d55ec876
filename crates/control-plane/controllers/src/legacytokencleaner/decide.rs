//! What becomes of one token.

use std::collections::BTreeSet;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use podium_pki::token::legacy::{ACCOUNT_UID, INVALID_SINCE, LAST_USED, SECRET_TYPE};

use crate::clock;
use crate::labels;
use crate::owner;

const DAY_SECONDS: i64 = 24 * 3600;

/// What one Secret needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Keep,
    /// It is refused from that day on, and deleted after another such time.
    Invalidate(Date),
    Delete,
}

fn day(moment: Timestamp) -> Date {
    moment.to_zoned(TimeZone::UTC).date()
}

/// A date as labels have it.
fn read(text: Option<&str>) -> Option<Date> {
    text.and_then(|text| Date::strptime("%Y-%m-%d", text).ok())
}

/// Whether uses have been noted for long enough to judge by them.
pub(crate) fn is_known_long_enough(tracking: &ConfigMap, unused_seconds: i64, now: Timestamp) -> bool {
    let since = labels::value(tracking.data.as_ref(), "since").and_then(|text| read(Some(text)));
    let since = since.and_then(|date| date.to_zoned(TimeZone::UTC).ok()).map(|zoned| zoned.timestamp());
    // The first day is not a whole one.
    since.is_some_and(|since| clock::after(since, unused_seconds.saturating_add(DAY_SECONDS)) <= now)
}

/// Decides about one Secret. `account` is the one it names, `mounted` the Secrets that pods of its namespace name. What was not used
/// for `unused_seconds` is unused.
pub(crate) fn decide(
    secret: &Secret,
    account: Option<&ServiceAccount>,
    mounted: &BTreeSet<String>,
    unused_seconds: i64,
    now: Timestamp,
) -> Decision {
    let meta = &secret.metadata;
    let horizon = clock::after(now, -unused_seconds);
    let young = meta.creation_timestamp.as_ref().is_none_or(|created| created.0 >= horizon);
    if secret.type_.as_deref() != Some(SECRET_TYPE) || young || meta.deletion_timestamp.is_some() {
        return Decision::Keep;
    }
    let last_used = labels::value(meta.labels.as_ref(), LAST_USED);
    match (last_used, read(last_used)) {
        (Some(_), None) => return Decision::Keep,
        (Some(_), Some(date)) if date >= day(horizon) => return Decision::Keep,
        _ => {}
    }
    let name = owner::name(meta);
    // Only those that the account lists were made automatically.
    let uid = labels::value(meta.annotations.as_ref(), ACCOUNT_UID).unwrap_or_default();
    let lists = |account: &ServiceAccount| {
        let same = uid.is_empty() || uid == owner::uid(&account.metadata);
        same && account.secrets.iter().flatten().any(|reference| reference.name.as_deref() == Some(name))
    };
    if !account.is_some_and(lists) || mounted.contains(name) {
        return Decision::Keep;
    }
    match read(labels::value(meta.labels.as_ref(), INVALID_SINCE)) {
        None => Decision::Invalidate(day(now)),
        Some(since) if since >= day(horizon) => Decision::Keep,
        Some(_) => Decision::Delete,
    }
}

/// The Secrets that a pod names, wherever it does.
pub(crate) fn secrets_of(pod: &Pod) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    // A field by any of these names holds a Secret's name, in whatever volume or container it stands.
    let tree = serde_json::to_value(&pod.spec).unwrap_or_default();
    collect(&tree, &mut names);
    names
}

fn collect(value: &serde_json::Value, names: &mut BTreeSet<String>) {
    use serde_json::Value;
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect(item, names)),
        Value::Object(fields) => {
            for (field, value) in fields {
                let text = match field.as_str() {
                    "secretName" => value.as_str(),
                    "secretRef" | "secretKeyRef" | "secret" | "nodePublishSecretRef" => {
                        value["name"].as_str()
                    }
                    "imagePullSecrets" => {
                        let listed = value.as_array().into_iter().flatten();
                        let listed =
                            listed.filter_map(|it| it["name"].as_str()).filter(|name| !name.is_empty());
                        names.extend(listed.map(str::to_owned));
                        None
                    }
                    _ => None,
                };
                names.extend(text.filter(|text| !text.is_empty()).map(str::to_owned));
                collect(value, names);
            }
        }
        _ => {}
    }
}
