//! Which address families a Service has, from what was said and what the cluster is. Pure.
//!
//! Source: upstream's `initIPFamilyFields` in `pkg/registry/core/service/storage/alloc.go`, for clusters of one family.

use podium_api::field::{Errors, Path};
use podium_api::kinds::service::address_faults;
use serde_json::{Value, json};

/// Fills in policy and families of a Service of a cluster whose Services have addresses of the family `own`. The faults that
/// keep it from being given an address.
pub(super) fn settle(new: &mut Value, old: Option<&Value>, own: &str) -> Errors {
    let mut errors = Errors::new();
    if new["spec"]["type"] == "ExternalName" {
        return errors;
    }
    let before = old.map_or(&Value::Null, |old| &old["spec"]);
    let spec = &new["spec"];
    let unselective = spec["selector"].as_object().is_none_or(serde_json::Map::is_empty);
    // Nobody knows of which families the endpoints are that somebody else writes.
    let open = spec["clusterIP"] == "None" && unselective;
    if spec["ipFamilyPolicy"].is_null() {
        new["spec"]["ipFamilyPolicy"] = match &before["ipFamilyPolicy"] {
            Value::Null if open => json!("RequireDualStack"),
            Value::Null => json!("SingleStack"),
            known => known.clone(),
        };
    }
    address_faults(new, old, &mut errors);
    if !errors.is_empty() {
        return errors;
    }
    let spec = &mut new["spec"];
    match_policy(spec, before, &mut errors);
    families_of_addresses(spec, own, &mut errors);
    if !errors.is_empty() {
        return errors;
    }
    if open {
        both(spec, own);
        return errors;
    }
    let path = Path::new("spec");
    if spec["ipFamilyPolicy"] == "RequireDualStack" {
        let why = "this cluster is not configured for dual-stack services";
        errors.invalid(&path.child("ipFamilyPolicy"), "RequireDualStack", why);
    }
    for (index, family) in items(spec, "ipFamilies").iter().enumerate().filter(|(_, family)| *family != own) {
        let why = "not configured on this cluster";
        errors.invalid(&path.child("ipFamilies").index(index), family.clone(), why);
    }
    if errors.is_empty() && items(spec, "ipFamilies").is_empty() {
        spec["ipFamilies"] = json!([own]);
    }
    errors
}

fn items<'a>(spec: &'a Value, field: &str) -> &'a [Value] {
    spec[field].as_array().map_or(&[], Vec::as_slice)
}

/// Policy, addresses and families must fit; who asks for a single stack lets go of the second of both.
fn match_policy(spec: &mut Value, before: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let at = path.child("ipFamilyPolicy");
    let single = spec["ipFamilyPolicy"] == "SingleStack";
    for (field, one, many) in
        [("clusterIPs", "cluster IP", "cluster IPs"), ("ipFamilies", "IP family", "IP families")]
    {
        let (now, known) = (items(spec, field).len(), items(before, field).len());
        if single && spec[field] == before[field] {
            if let Some(items) = spec[field].as_array_mut() {
                items.truncate(1);
            }
        } else if !single && now > 0 && now < known {
            let why = format!("must be 'SingleStack' to release the secondary {one}");
            errors.invalid(&at, spec["ipFamilyPolicy"].clone(), &why);
        } else if single && now == 2 {
            let why =
                format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {many} are specified");
            errors.invalid(&at, spec["ipFamilyPolicy"].clone(), &why);
        }
    }
}

/// Addresses that were asked for say of which family they are.
fn families_of_addresses(spec: &mut Value, own: &str, errors: &mut Errors) {
    let addresses: Vec<String> =
        items(spec, "clusterIPs").iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let path = Path::new("spec");
    for (index, address) in addresses.iter().enumerate().skip(items(spec, "ipFamilies").len()) {
        if address == "None" {
            break;
        }
        let family = if address.contains(':') { "IPv6" } else { "IPv4" };
        if family != own {
            let why = format!("{family} is not configured on this cluster");
            errors.invalid(&path.child("clusterIPs").index(index), spec["clusterIPs"].clone(), &why);
        } else if let Some(families) = spec["ipFamilies"].as_array_mut() {
            families.push(json!(family));
        } else {
            spec["ipFamilies"] = json!([family]);
        }
    }
}

/// A headless Service without selector has both families, unless it asked for one.
fn both(spec: &mut Value, own: &str) {
    if items(spec, "ipFamilies").is_empty() {
        spec["ipFamilies"] = json!([own]);
    }
    let single = spec["ipFamilyPolicy"] == "SingleStack";
    if let Some(families) = spec["ipFamilies"].as_array_mut().filter(|families| families.len() < 2 && !single)
    {
        let other = if families[0] == "IPv4" { "IPv6" } else { "IPv4" };
        families.push(json!(other));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(mut spec: Value, before: &Value, expected: Result<(&str, Value), &[&str]>) {
        spec["type"] = json!("ClusterIP");
        let old = (!before.is_null()).then(|| json!({"spec": before}));
        let mut new = json!({"spec": spec});
        let errors = settle(&mut new, old.as_ref(), "IPv4");
        let spec = &new["spec"];
        match expected {
            Ok((policy, families)) => {
                assert_eq!(errors, Errors::new(), "{new}");
                assert_eq!((&spec["ipFamilyPolicy"], &spec["ipFamilies"]), (&json!(policy), &families));
            }
            Err(faults) => {
                let texts: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
                assert_eq!(texts, faults);
            }
        }
    }

    #[test]
    fn families_follow_policy_and_addresses() {
        let none = Value::Null;
        check(json!({}), &none, Ok(("SingleStack", json!(["IPv4"]))));
        check(json!({"ipFamilyPolicy": "PreferDualStack"}), &none, Ok(("PreferDualStack", json!(["IPv4"]))));
        let headless = json!({"clusterIP": "None", "clusterIPs": ["None"]});
        check(headless.clone(), &none, Ok(("RequireDualStack", json!(["IPv4", "IPv6"]))));
        let mut chosen = headless;
        chosen["selector"] = json!({"a": "b"});
        check(chosen, &none, Ok(("SingleStack", json!(["IPv4"]))));
        let before =
            json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv4"], "type": "ClusterIP"});
        check(json!({}), &before, Ok(("PreferDualStack", json!(["IPv4"]))));
    }

    #[test]
    fn what_does_not_fit_is_told_before_anything_is_allocated() {
        let none = Value::Null;
        check(
            json!({"clusterIPs": ["10.96.0.9"]}),
            &none,
            Err(&[
                "spec.clusterIPs: Invalid value: [\"10.96.0.9\"]: must be empty when `clusterIP` is not specified",
            ]),
        );
        check(
            json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"]}),
            &none,
            Err(&[
                "spec.clusterIPs[0]: Invalid value: [\"fd00::1\"]: IPv6 is not configured on this cluster",
            ]),
        );
        check(
            json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"]}),
            &none,
            Err(&[
                "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
                "spec.ipFamilies[1]: Invalid value: \"IPv6\": not configured on this cluster",
            ]),
        );
        check(
            json!({"ipFamilies": ["IPv4", "IPv6"]}),
            &none,
            Err(&[
                "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified",
            ]),
        );
        let before = json!({"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"],
            "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"]});
        let mut after = before.clone();
        after["ipFamilies"] = json!(["IPv4"]);
        check(
            after.clone(),
            &before,
            Err(&[
                "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": must be 'SingleStack' to release the secondary IP family",
            ]),
        );
        after["ipFamilies"] = json!(["IPv4", "IPv6"]);
        after["ipFamilyPolicy"] = json!("SingleStack");
        check(after, &before, Ok(("SingleStack", json!(["IPv4"]))));
    }
}
