//! Managed fields: who a writer is, which fields a request cannot change, and the tracking of every write.
//!
//! The sets are computed in `podium_api::patch::apply`, in the version the client speaks.

use std::borrow::Cow;

use podium_api::patch::apply::{self, Writer};
use podium_api::schema::TypeId;
use podium_api::status::ApiError;
use serde_json::Value;

use super::Call;
use crate::authentication::User;

/// The longest name of a manager. Source: upstream's `FieldManagerMaxLength`.
const MAX_NAME: usize = 128;

/// The manager in a user agent: what stands before the first slash, printable characters only.
pub(crate) fn from_user_agent(agent: &str) -> String {
    let name = agent.split('/').next().unwrap_or_default();
    let mut manager = String::with_capacity(name.len().min(MAX_NAME));
    for c in name.chars().filter(|c| !c.is_control()) {
        if manager.len() + c.len_utf8() > MAX_NAME {
            break;
        }
        manager.push(c);
    }
    manager
}

/// The manager that a part of this process is, by its identity: the name that upstream's process of that role has.
pub(crate) fn from_identity(user: &User) -> String {
    let name = user.name.as_str();
    if name.starts_with("system:node:") {
        return "kubelet".to_owned();
    }
    if name.starts_with("system:serviceaccount:kube-system:") {
        return "kube-controller-manager".to_owned();
    }
    from_user_agent(name.rsplit(':').next().unwrap_or_default())
}

type Paths = &'static [&'static [&'static str]];

const STATUS: Paths = &[&["status"]];
const SPEC: Paths = &[&["spec"]];

/// What a write to this part of a kind cannot change, and so nobody comes to own by it. Source: upstream's
/// `GetResetFields` of each kind's strategies.
pub(super) fn reset_fields(plural: &str, subresource: &str) -> Paths {
    match (subresource, plural) {
        ("", "certificatesigningrequests") => &[&["spec"], &["status"]],
        ("status", "certificatesigningrequests") => &[&["spec"], &["status", "conditions"]],
        ("approval", _) => &[&["spec"], &["status", "certificate"]],
        ("status", "pods") => {
            &[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]]
        }
        ("status", "deployments") => &[&["spec"], &["metadata", "labels"]],
        (
            "status",
            "devicetaintrules"
            | "flowschemas"
            | "podgroups"
            | "prioritylevelconfigurations"
            | "resourceclaims"
            | "resourcepoolstatusrequests"
            | "servicecidrs"
            | "storageversionmigrations"
            | "storageversions"
            | "validatingadmissionpolicies"
            | "volumeattachments",
        ) => &[&["spec"], &["metadata"]],
        ("status", _) => SPEC,
        _ => STATUS,
    }
}

impl Call {
    /// The name of whoever writes: as it says, or the beginning of its user agent.
    pub(super) fn manager(&self) -> Cow<'_, str> {
        match self.query.first("fieldManager") {
            Some(given) if !given.is_empty() => Cow::Borrowed(given),
            _ => Cow::Borrowed(&self.manager),
        }
    }

    fn writer<'w>(&'w self, manager: &'w str, now: &'w str) -> Writer<'w> {
        let subresource = self.info.subresource.as_str();
        Writer { manager, subresource, now, reset: reset_fields(&self.served.plural, subresource) }
    }

    /// Gives a new object of another type than the resource's, such as a review, its managed fields.
    pub(super) fn track_as(&self, ty: TypeId, new: &mut Value, now: &str) {
        apply::track(&Value::Null, new, ty, &self.writer(&self.manager(), now));
    }

    /// Brings the managed fields of a written object up to date; both are in the stored version, `old` is null on create.
    pub(super) fn track(&self, old: &Value, new: &mut Value, now: &str) -> Result<(), ApiError> {
        let Some(ty) = self.served.type_id else { return Ok(()) };
        let manager = self.manager();
        let writer = self.writer(&manager, now);
        if self.served.as_stored() {
            apply::track(old, new, ty, &writer);
            return Ok(());
        }
        let live = if old.is_null() { Value::Null } else { self.to_served(old.clone())? };
        let mut seen = self.to_served(new.clone())?;
        apply::track(&live, &mut seen, ty, &writer);
        set_managed_fields(new, seen["metadata"]["managedFields"].take());
        Ok(())
    }
}

/// Sets or clears `metadata.managedFields`.
pub(super) fn set_managed_fields(object: &mut Value, fields: Value) {
    if fields.as_array().is_some_and(|entries| !entries.is_empty()) {
        object["metadata"]["managedFields"] = fields;
    } else {
        super::remove(&mut object["metadata"], "managedFields");
    }
}

/// Whether a write comes to no more than new times of its managers: then it is none.
pub(super) fn only_times_differ(new: &mut Value, old: &mut Value) -> bool {
    let entries = |object: &Value| object["metadata"]["managedFields"].as_array().map_or(0, Vec::len);
    if entries(new) == 0 || entries(new) != entries(old) {
        return false;
    }
    let mut fields = [new["metadata"]["managedFields"].take(), old["metadata"]["managedFields"].take()];
    let same = new == old && {
        let [new, old] = &fields;
        let pairs = new.as_array().into_iter().flatten().zip(old.as_array().into_iter().flatten());
        pairs.into_iter().all(|(a, b)| same_but_time(a, b))
    };
    old["metadata"]["managedFields"] = fields[1].take();
    new["metadata"]["managedFields"] = fields[0].take();
    same
}

fn same_but_time(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return false };
    let timeless =
        |entry: &'_ serde_json::Map<String, Value>| entry.len() - usize::from(entry.contains_key("time"));
    timeless(a) == timeless(b) && a.iter().all(|(name, value)| name == "time" || b.get(name) == Some(value))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn managers_are_named_by_agent_or_identity() {
        assert_eq!(from_user_agent("kubectl/v1.36.0 (linux/amd64) kubernetes/abc"), "kubectl");
        assert_eq!(from_user_agent(""), "");
        assert_eq!(from_user_agent(&"x".repeat(200)).len(), 128);
        let by = |name: &str| from_identity(&User::new(name, &[]));
        assert_eq!(by("system:node:n1"), "kubelet");
        assert_eq!(by("system:serviceaccount:kube-system:job-controller"), "kube-controller-manager");
        assert_eq!(by("system:kube-scheduler"), "kube-scheduler");
        assert_eq!(by("admin"), "admin");
    }

    #[test]
    fn new_times_alone_are_no_change() {
        let object = |time: &str, data: &str| json!({"metadata": {"managedFields": [{"manager": "m", "time": time}]}, "data": data});
        let check = |mut a: Value, mut b: Value| {
            let (was, is) = (a.clone(), b.clone());
            let same = only_times_differ(&mut a, &mut b);
            assert_eq!((a, b), (was, is));
            same
        };
        assert!(check(object("1", "x"), object("2", "x")));
        assert!(!check(object("1", "x"), object("2", "y")));
        assert!(!check(object("1", "x"), json!({"metadata": {}, "data": "x"})));
    }
}
