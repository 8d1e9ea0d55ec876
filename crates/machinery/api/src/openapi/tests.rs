//! The documents against upstream's published one, and what kubectl looks for in them.

use std::collections::BTreeSet;

use super::*;

fn swagger() -> Option<Value> {
    let path =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../../shared/data/openapi/swagger.json");
    let Ok(text) = std::fs::read(path) else {
        println!("skipped: no ../shared/data/openapi/swagger.json beside the workspace");
        return None;
    };
    Some(serde_json::from_slice(&text).unwrap())
}

fn parse(document: &[u8]) -> Value {
    serde_json::from_slice(document).unwrap()
}

/// Betas are documented where they are served, and only there.
#[test]
fn what_is_turned_on_is_documented() {
    let betas: Selection = "api/beta=true".parse().unwrap();
    assert_eq!(v3(&Selection::default(), "apis/networking.k8s.io/v1beta1"), None);
    let document = parse(&v3(&betas, "apis/networking.k8s.io/v1beta1").unwrap());
    assert!(document["components"]["schemas"]["io.k8s.api.networking.v1beta1.ServiceCIDR"].is_object());
    assert!(document["paths"]["/apis/networking.k8s.io/v1beta1/servicecidrs/{name}/status"].is_object());
    let whole = parse(&v2(&betas));
    assert!(whole["definitions"]["io.k8s.api.networking.v1beta1.IPAddress"].is_object());
    assert!(v3_index(&betas)["paths"]["apis/storagemigration.k8s.io/v1beta1"].is_object());
    let half: Selection = "networking.k8s.io/v1beta1/ipaddresses=true".parse().unwrap();
    let document = parse(&v3(&half, "apis/networking.k8s.io/v1beta1").unwrap());
    assert!(document["components"]["schemas"]["io.k8s.api.networking.v1beta1.ServiceCIDR"].is_null());
    let path = "apis/networking.k8s.io/v1beta1";
    assert_ne!(hash(&betas, path), hash(&Selection::default(), path), "clients must ask anew");
}

/// None is missing, betas included, and definitions differ in nothing but the unions extension, and in which kinds options are said to be.
#[test]
fn definitions_are_upstreams() {
    let Some(published) = swagger() else { return };
    let ours = parse(&v2(&"api/beta=true".parse().unwrap()));
    // Only documents about groups and the server itself refer to these, and those are not in ours.
    let about_groups = |name: &str| name.contains(".meta.v1.") || name.ends_with("pkg.version.Info");
    let missing: Vec<&String> = published["definitions"]
        .as_object()
        .unwrap()
        .keys()
        .filter(|name| ours["definitions"].get(name.as_str()).is_none())
        .filter(|name| !name.contains("alpha") && !about_groups(name))
        .collect();
    assert!(missing.is_empty(), "missing: {missing:#?}");
    let mut different = vec![];
    for (name, ours) in ours["definitions"].as_object().unwrap() {
        let Some(mut theirs) = published["definitions"].get(name).cloned() else { continue };
        let mut ours = ours.clone();
        for definition in [&mut ours, &mut theirs] {
            let definition = definition.as_object_mut().unwrap();
            definition.remove("x-kubernetes-unions");
            if let Some(Value::Array(required)) = definition.get_mut("required") {
                required.sort_by_key(|name| name.as_str().map(str::to_owned));
            }
            if name.contains(".meta.v1.") {
                definition.remove("x-kubernetes-group-version-kind");
            }
            // Lists are generated here: their descriptions are our own. k8s-openapi has its own of watch events.
            if name.ends_with("List") || name.ends_with(".WatchEvent") {
                definition.remove("description");
                for property in definition["properties"].as_object_mut().unwrap().values_mut() {
                    property.as_object_mut().unwrap().remove("description");
                }
            }
        }
        if ours != theirs {
            let (ours, theirs) = (ours.as_object().unwrap(), theirs.as_object().unwrap());
            for key in ours.keys().chain(theirs.keys()).collect::<BTreeSet<_>>() {
                if ours.get(key) != theirs.get(key) && key != "properties" {
                    different.push(format!("{name} {key}: {:?} for {:?}", ours.get(key), theirs.get(key)));
                }
            }
            let fields = |d: &Map<String, Value>| {
                d.get("properties").and_then(Value::as_object).cloned().unwrap_or_default()
            };
            let (ours, theirs) = (fields(ours), fields(theirs));
            for key in ours.keys().chain(theirs.keys()).collect::<BTreeSet<_>>() {
                if ours.get(key) != theirs.get(key) {
                    different.push(format!("{name}.{key}: {:?} for {:?}", ours.get(key), theirs.get(key)));
                }
            }
        }
    }
    assert!(different.is_empty(), "{} differ:\n{}", different.len(), different.join("\n"));
}

/// Every operation of a served version is there, under upstream's name, kind and parameters.
#[test]
fn operations_are_upstreams() {
    operations(&Selection::default(), &["alpha", "beta"]);
    operations(&"api/beta=true".parse().unwrap(), &["alpha"]);
}

#[track_caller]
fn operations(selection: &Selection, off: &[&str]) {
    let Some(published) = swagger() else { return };
    let ours = parse(&v2(selection));
    let describe = |document: &Value| {
        let mut found = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            let served = ["/api/v1/", "/apis/"].iter().any(|p| path.starts_with(p));
            let left_out = path.contains("/watch/")
                || off.iter().any(|stage| path.contains(stage))
                || path.ends_with("{path}");
            let version = path.trim_end_matches('/').split('/').count() >= 4 || path == "/api/v1/";
            if !served || left_out || !version {
                continue;
            }
            let names = |holder: &Value| -> Vec<String> {
                let list = holder.get("parameters").and_then(Value::as_array).cloned().unwrap_or_default();
                let resolve = |p: Value| match p.get("$ref").and_then(Value::as_str) {
                    Some(reference) => document["parameters"][reference.rsplit('/').next().unwrap()].clone(),
                    None => p,
                };
                list.into_iter().map(|p| resolve(p)["name"].as_str().unwrap().to_owned()).collect()
            };
            for (method, operation) in item.as_object().unwrap() {
                if ["parameters", "head", "options"].contains(&method.as_str()) {
                    continue;
                }
                let mut parameters = names(item);
                parameters.extend(names(operation));
                parameters.sort();
                let schema = operation["responses"]["200"]["schema"].to_string();
                found.insert(format!(
                    "{method} {path} {} {} {} {} {schema}",
                    operation["operationId"],
                    operation["x-kubernetes-action"],
                    operation["x-kubernetes-group-version-kind"],
                    parameters.join(","),
                ));
            }
        }
        found
    };
    let (ours, theirs) = (describe(&ours), describe(&published));
    let missing: Vec<_> = theirs.difference(&ours).collect();
    let extra: Vec<_> = ours.difference(&theirs).collect();
    assert!(missing.is_empty() && extra.is_empty(), "missing:\n{missing:#?}\nextra:\n{extra:#?}");
}

#[test]
fn every_document_in_the_index_exists_and_refers_to_nothing_outside() {
    let index = v3_index(&Selection::default());
    let paths = index["paths"].as_object().unwrap();
    assert!(paths.contains_key("api/v1") && paths.contains_key("apis/apps/v1"));
    for (path, entry) in paths {
        let url = entry["serverRelativeURL"].as_str().unwrap();
        assert_eq!(url, format!("/openapi/v3/{path}?hash={}", hash(&Selection::default(), path)));
        let text = v3(&Selection::default(), path).unwrap();
        let document = parse(&text);
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let text = String::from_utf8_lossy(&text);
        for reference in text.split("\"$ref\":\"#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(schemas.contains_key(name), "{path} refers to {name}");
            assert!(schemas::exists(name));
        }
    }
    assert_eq!(v3(&Selection::default(), "apis/apps/v1beta1"), None);
    assert_eq!(v3(&Selection::default(), "nonsense"), None);
}

/// kubectl validates on the server only if the kind's PATCH operation has the `fieldValidation` parameter.
#[test]
fn patch_operations_have_field_validation() {
    let document = parse(&v3(&Selection::default(), "apis/apps/v1").unwrap());
    let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    let names: Vec<_> =
        patch["parameters"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"fieldValidation"), "{names:?}");
    let gvk = json!({"group": "apps", "version": "v1", "kind": "Deployment"});
    assert_eq!(patch["x-kubernetes-group-version-kind"], gvk);
    let schema = &document["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(schema["x-kubernetes-patch-merge-key"], "name");
    let reference = "#/components/schemas/io.k8s.api.core.v1.Container";
    assert_eq!(schema["items"], json!({"allOf": [{"$ref": reference}], "default": {}}));
}

/// The protobuf form, read by its tags: every definition is there, with properties and extensions.
#[test]
fn protobuf_document_has_every_definition() {
    use crate::codec::protobuf::wire::Reader;
    fn fields(bytes: &[u8], wanted: u32) -> Vec<&[u8]> {
        let mut reader = Reader::new(bytes);
        let mut found = vec![];
        while let Some((tag, wire)) = reader.key().unwrap() {
            if tag == wanted {
                found.push(reader.bytes(wire).unwrap());
            } else {
                reader.skip(wire).unwrap();
            }
        }
        found
    }
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let document = v2_protobuf(&Selection::default());
    assert_eq!(fields(&document, 1), [b"2.0"]);
    let definitions = fields(&document, 9);
    let definitions = fields(definitions[0], 1);
    assert_eq!(definitions.len(), schemas::served(&Selection::default()).len());
    let spec = definitions.iter().find(|d| fields(d, 1) == [b"io.k8s.api.core.v1.PodSpec"]).unwrap();
    let properties = fields(fields(fields(spec, 2)[0], 25)[0], 1);
    let containers = properties.iter().find(|p| fields(p, 1) == [b"containers"]).unwrap();
    let extensions = fields(fields(containers, 2)[0], 31);
    let found: Vec<_> = extensions
        .iter()
        .map(|e| format!("{}={}", text(fields(e, 1)[0]), text(fields(fields(e, 2)[0], 2)[0])))
        .collect();
    assert!(found.contains(&"x-kubernetes-patch-merge-key=\"name\"\n".to_owned()), "{found:?}");
    let paths = fields(fields(&document, 8)[0], 2);
    assert!(
        paths.iter().any(|p| fields(p, 1) == [b"/apis/apps/v1/namespaces/{namespace}/deployments/{name}"])
    );
}
