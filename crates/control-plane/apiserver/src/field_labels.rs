//! Which names a field selector may use, kind by kind, with the older names that mean the same.
//!
//! Source: upstream's `AddFieldLabelConversionFunc` calls; kinds without one know only name and namespace.

use std::borrow::Cow;

use podium_api::status::ApiError;

use crate::catalogue::Served;

/// Kinds whose objects have selectable fields that selectors of this version may not name all the same.
const WITHOUT_LABELS: &[&str] = &["leasecandidates", "persistentvolumes", "replicasets"];

/// The names of events.k8s.io, whose objects are stored as core events.
const EVENTS: &[(&str, &str)] = &[
    ("reason", "reason"),
    ("regarding.apiVersion", "involvedObject.apiVersion"),
    ("regarding.fieldPath", "involvedObject.fieldPath"),
    ("regarding.kind", "involvedObject.kind"),
    ("regarding.name", "involvedObject.name"),
    ("regarding.namespace", "involvedObject.namespace"),
    ("regarding.resourceVersion", "involvedObject.resourceVersion"),
    ("regarding.uid", "involvedObject.uid"),
    ("reportingController", "reportingComponent"),
    ("type", "type"),
];

/// The field that a name in a selector means.
///
/// Errors: 400 where the kind does not have it.
pub(crate) fn resolve<'l>(served: &Served, label: &'l str) -> Result<Cow<'l, str>, ApiError> {
    if label == "metadata.name" {
        return Ok(Cow::Borrowed(label));
    }
    let plural = served.plural.as_str();
    if served.selectable.is_empty() || WITHOUT_LABELS.contains(&plural) {
        return match label {
            "metadata.namespace" => Ok(Cow::Borrowed(label)),
            _ => Err(ApiError::bad_request(format!(
                "{label:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
            ))),
        };
    }
    if label == "metadata.namespace" && served.namespaced {
        return Ok(Cow::Borrowed(label));
    }
    let known = match (served.group.as_str(), plural, label) {
        ("events.k8s.io", ..) => EVENTS.iter().find(|(name, _)| *name == label).map(|(_, field)| *field),
        ("", "pods", "spec.host") => Some("spec.nodeName"),
        ("", "pods", "status.podIPs") => Some("status.podIPs"),
        _ => served.selectable.iter().find(|field| **field == label).copied(),
    };
    known.map(Cow::Borrowed).ok_or_else(|| {
        ApiError::bad_request(match plural {
            "jobs" => format!("field label {label:?} not supported for Job"),
            "resourceslices" => {
                format!(
                    "field label not supported for {}, Kind={}: {label}",
                    served.api_version(),
                    served.kind
                )
            }
            _ => format!("field label not supported: {label}"),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Catalogue;

    #[track_caller]
    fn check(group: &str, version: &str, plural: &str, label: &str, expected: Result<&str, &str>) {
        let served = Catalogue::built_in(&podium_api::resources::Selection::default())
            .find(group, version, plural)
            .unwrap();
        let found = resolve(&served, label).map_err(|error| error.message);
        let found = found.as_deref().map_err(String::as_str);
        assert_eq!(found, expected, "{plural} {label}");
    }

    #[test]
    fn names_are_those_of_upstream() {
        check("", "v1", "pods", "metadata.name", Ok("metadata.name"));
        check("", "v1", "pods", "metadata.namespace", Ok("metadata.namespace"));
        check("", "v1", "pods", "spec.host", Ok("spec.nodeName"));
        check("", "v1", "pods", "status.podIPs", Ok("status.podIPs"));
        check("", "v1", "pods", "spec.x", Err("field label not supported: spec.x"));
        check("", "v1", "nodes", "metadata.namespace", Err("field label not supported: metadata.namespace"));
        check("", "v1", "nodes", "spec.unschedulable", Ok("spec.unschedulable"));
        let only = r#""spec.x" is not a known field selector: only "metadata.name", "metadata.namespace""#;
        check("", "v1", "configmaps", "spec.x", Err(only));
        check("apps", "v1", "deployments", "spec.x", Err(only));
        check("apps", "v1", "replicasets", "spec.x", Err(only));
        check("", "v1", "persistentvolumes", "metadata.namespace", Ok("metadata.namespace"));
        check("batch", "v1", "jobs", "status.successful", Ok("status.successful"));
        check("batch", "v1", "jobs", "x", Err(r#"field label "x" not supported for Job"#));
        check(
            "resource.k8s.io",
            "v1",
            "resourceslices",
            "x",
            Err("field label not supported for resource.k8s.io/v1, Kind=ResourceSlice: x"),
        );
        check("", "v1", "events", "involvedObject.kind", Ok("involvedObject.kind"));
        check("", "v1", "events", "regarding.kind", Err("field label not supported: regarding.kind"));
        check("events.k8s.io", "v1", "events", "regarding.kind", Ok("involvedObject.kind"));
        check("events.k8s.io", "v1", "events", "source", Err("field label not supported: source"));
    }
}
