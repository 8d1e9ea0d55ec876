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

/// What differs from upstream's document on purpose, by definition.
///
/// Lists that are new in 1.36 are described in our words: k8s-pb does not know them yet.
const OUR_WORDS: [&str; 3] = [
    "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicyBindingList",
    "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicyList",
    "io.k8s.api.resource.v1beta2.DeviceTaintRuleList",
];

/// A definition without what upstream's published document lacks, which was recorded with the gate of enumerations off, and in one
/// order: upstream lists required fields as Go declares them.
fn comparable(name: &str, mut definition: Value) -> Value {
    let members = definition.as_object_mut().unwrap();
    if let Some(Value::Array(required)) = members.get_mut("required") {
        required.sort_by_key(|name| name.as_str().map(str::to_owned));
    }
    let ours = OUR_WORDS.contains(&name);
    let older = name.contains(".admissionregistration.") && name.ends_with("List");
    if ours {
        members.remove("description");
    }
    let Some(Value::Object(properties)) = members.get_mut("properties") else { return definition };
    for property in properties.values_mut().filter_map(Value::as_object_mut) {
        property.remove("enum");
        for inner in ["items", "additionalProperties"] {
            property.get_mut(inner).and_then(Value::as_object_mut).map(|inner| inner.remove("enum"));
        }
        if ours {
            property.remove("description");
        }
        // In the words of 1.35, which is what k8s-pb has.
        if older && let Some(Value::String(text)) = property.get_mut("description") {
            *text = text.replace("metadata is the standard list metadata", "Standard list metadata");
        }
        if let Some(Value::String(text)) = property.get_mut("description")
            && let Some(values) = text.find("\n\nPossible enum values:")
        {
            text.truncate(values);
        }
    }
    definition
}

/// None is missing, betas included, and none differs but as [`comparable`] and [`OUR_WORDS`] say.
#[test]
fn definitions_are_upstreams() {
    let Some(published) = swagger() else { return };
    let ours = parse(&v2(&"api/beta=true".parse().unwrap()));
    let (ours, theirs) = (&ours["definitions"], published["definitions"].as_object().unwrap());
    let missing: Vec<&String> =
        theirs.keys().filter(|n| ours.get(n.as_str()).is_none() && !n.contains("alpha")).collect();
    assert!(missing.is_empty(), "missing: {missing:#?}");
    let mut different = vec![];
    for (name, ours) in ours.as_object().unwrap() {
        let theirs = theirs.get(name).unwrap_or_else(|| panic!("{name} is ours only"));
        differences(name, &comparable(name, ours.clone()), &comparable(name, theirs.clone()), &mut different);
    }
    assert!(different.is_empty(), "{} differ:\n{}", different.len(), different.join("\n"));
}

/// Where two values differ, as deep as members go.
fn differences(place: &str, ours: &Value, theirs: &Value, found: &mut Vec<String>) {
    let (Some(ours), Some(theirs)) = (ours.as_object(), theirs.as_object()) else {
        if ours != theirs {
            found.push(format!("{place}: {ours} for {theirs}"));
        }
        return;
    };
    for key in ours.keys().chain(theirs.keys()).collect::<BTreeSet<_>>() {
        let [ours, theirs] = [ours, theirs].map(|members| members.get(key).unwrap_or(&Value::Null));
        differences(&format!("{place} {key}"), ours, theirs, found);
    }
}

/// Every path of what is served is there with the same operations, each under upstream's name, with its words, kinds, media types,
/// parameters and answers.
#[test]
fn operations_are_upstreams() {
    operations(&Selection::default(), &["alpha", "beta"], &["internal.apiserver", "storagemigration"]);
    operations(&"api/beta=true".parse().unwrap(), &["alpha"], &["internal.apiserver"]);
}

#[track_caller]
fn operations(selection: &Selection, stages: &[&str], groups: &[&str]) {
    let Some(mut published) = swagger() else { return };
    let mut ours = parse(&v2(selection));
    without_cbor(&mut published);
    let off = |path: &str| {
        // Upstream serves logs with `--enable-logs-handler` only.
        path.starts_with("/logs/") || stages.iter().chain(groups).any(|word| path.contains(word))
    };
    published["paths"].as_object_mut().unwrap().retain(|path, _| !off(path));
    for document in [&mut ours, &mut published] {
        let parameters = document["parameters"].as_object_mut().unwrap();
        // Described in our words, which its name is a hash of: k8s-pb does not know it yet.
        parameters.retain(|name, _| !name.starts_with("shardSelector-") && !name.starts_with("logpath-"));
        rename_shard_selector(&mut document["paths"]);
    }
    let mut different = vec![];
    for part in ["paths", "parameters"] {
        differences(part, &ours[part], &published[part], &mut different);
    }
    assert!(different.is_empty(), "{} differ:\n{}", different.len(), different.join("\n"));
}

/// Takes away the media types of a feature that is off.
fn without_cbor(value: &mut Value) {
    match value {
        Value::Array(items) => {
            items.retain(|item| !item.as_str().is_some_and(|text| text.contains("cbor")));
            items.iter_mut().for_each(without_cbor);
        }
        Value::Object(members) => members.values_mut().for_each(without_cbor),
        _ => {}
    }
}

fn rename_shard_selector(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(rename_shard_selector),
        Value::Object(members) => members.values_mut().for_each(rename_shard_selector),
        Value::String(text) if text.starts_with("#/parameters/shardSelector-") => {
            text.truncate("#/parameters/shardSelector".len());
        }
        _ => {}
    }
}

/// The document of a page has no schemas but what the page answers.
#[test]
fn pages_have_documents() {
    let page = |path: &str| parse(&v3(&Selection::default(), path).unwrap());
    let group = page("apis/apps");
    assert_eq!(group["paths"]["/apis/apps/"]["get"]["operationId"], "getAppsAPIGroup");
    assert_eq!(group["components"]["schemas"].as_object().unwrap().len(), 3);
    let keys = page("openid/v1/jwks");
    let answer = &keys["paths"]["/openid/v1/jwks/"]["get"]["responses"]["200"];
    assert_eq!(answer["content"], json!({"application/jwk-set+json": {"schema": {"type": "string"}}}));
    assert_eq!(keys["components"].as_object().unwrap().len(), 1);
    for gone in ["logs", "apis/storagemigration.k8s.io", "apis/", "/api/v1"] {
        assert_eq!(v3(&Selection::default(), gone), None, "{gone}");
    }
}

/// Options are kinds of the version whose document it is, and of the core group.
#[test]
fn options_are_kinds_of_their_document() {
    let name = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
    let kinds = |document: Value, holder: &str| {
        document.pointer(holder).unwrap()[name]["x-kubernetes-group-version-kind"].as_array().unwrap().clone()
    };
    let apps = kinds(parse(&v3(&Selection::default(), "apis/apps/v1").unwrap()), "/components/schemas");
    let of = |group: &str| json!({"group": group, "version": "v1", "kind": "DeleteOptions"});
    assert_eq!(apps, [of(""), of("apps")]);
    assert!(kinds(parse(&v2(&Selection::default())), "/definitions").len() > 50);
}

/// Values, unions and defaults, as kubectl and client generators look for them.
#[test]
fn schemas_of_v3() {
    let document = parse(&v3(&Selection::default(), "api/v1").unwrap());
    let schemas = &document["components"]["schemas"];
    let field =
        |ty: &str, field: &str| schemas[format!("io.k8s.api.core.v1.{ty}")]["properties"][field].clone();
    assert_eq!(
        field("PodSpec", "dnsPolicy")["enum"],
        json!(["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"])
    );
    assert_eq!(field("PersistentVolumeSpec", "accessModes")["items"]["enum"].as_array().unwrap().len(), 4);
    let text = field("Service", "spec");
    assert_eq!(text["allOf"], json!([{"$ref": "#/components/schemas/io.k8s.api.core.v1.ServiceSpec"}]));
    assert_eq!(text["default"], json!({}));
    let group = &schemas["io.k8s.api.core.v1.PodSchedulingGroup"];
    assert_eq!(
        group["x-kubernetes-unions"],
        json!([{"fields-to-discriminateBy": {"podGroupName": "PodGroupName"}}])
    );
    // With nothing beside it, a reference stands alone.
    let document = parse(&v3(&Selection::default(), "apis/networking.k8s.io/v1").unwrap());
    let rule =
        &document["components"]["schemas"]["io.k8s.api.networking.v1.IngressRule"]["properties"]["http"];
    assert_eq!(rule["$ref"], "#/components/schemas/io.k8s.api.networking.v1.HTTPIngressRuleValue");
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
        let schemas = document["components"]["schemas"].as_object().cloned().unwrap_or_default();
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
    assert_eq!(schema["items"], json!({"$ref": reference}));
}

/// The values of a field of a message, by its tag.
fn fields(bytes: &[u8], wanted: u32) -> Vec<&[u8]> {
    let mut reader = crate::codec::protobuf::wire::Reader::new(bytes);
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

/// The value of the entry of a list of named values.
fn entry<'a>(entries: &[&'a [u8]], name: &str) -> &'a [u8] {
    let found = entries.iter().find(|entry| fields(entry, 1) == [name.as_bytes()]);
    fields(found.unwrap_or_else(|| panic!("no {name}")), 2)[0]
}

/// The protobuf form of v3, read by its tags.
#[test]
fn protobuf_documents_of_v3() {
    let served = Selection::default();
    assert_eq!(v3_protobuf(&served, "apis/nothing"), None);
    let json = parse(&v3(&served, "apis/apps/v1").unwrap());
    let document = v3_protobuf(&served, "apis/apps/v1").unwrap();
    assert_eq!(fields(&document, 1), [b"3.0.0"]);
    let schemas = fields(fields(fields(&document, 5)[0], 1)[0], 1);
    assert_eq!(schemas.len(), json["components"]["schemas"].as_object().unwrap().len());
    // Schemas and references are alternatives: the first and the second.
    let strategy = fields(entry(&schemas, "io.k8s.api.apps.v1.DeploymentStrategy"), 1)[0];
    let ty = fields(entry(&fields(fields(strategy, 31)[0], 1), "type"), 1)[0];
    let values: Vec<_> = fields(ty, 24).iter().map(|value| fields(value, 2)[0]).collect();
    assert_eq!(values, [&b"\"Recreate\"\n"[..], b"\"RollingUpdate\"\n"]);
    let spec = fields(entry(&schemas, "io.k8s.api.apps.v1.DeploymentSpec"), 1)[0];
    let template = fields(entry(&fields(fields(spec, 31)[0], 1), "template"), 1)[0];
    let reference = fields(fields(template, 26)[0], 2)[0];
    let pod_template = "#/components/schemas/io.k8s.api.core.v1.PodTemplateSpec";
    assert_eq!(fields(reference, 1), [pod_template.as_bytes()]);
    assert_eq!(fields(template, 33), [b""], "gnostic has no defaults that are objects");
    let paths = fields(fields(&document, 4)[0], 1);
    assert_eq!(paths.len(), json["paths"].as_object().unwrap().len());
    let item = entry(&paths, "/apis/apps/v1/namespaces/{namespace}/deployments/{name}");
    assert_eq!(fields(fields(item, 10)[0], 5), [b"patchAppsV1NamespacedDeployment"]);
    let extensions = fields(fields(item, 10)[0], 13);
    assert_eq!(fields(entry(&extensions, "x-kubernetes-action"), 2), [b"\"patch\"\n"]);
}

/// The protobuf form of v2: every definition is there, with properties and extensions.
#[test]
fn protobuf_document_has_every_definition() {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let document = v2_protobuf(&Selection::default());
    assert_eq!(fields(&document, 1), [b"2.0"]);
    let definitions = fields(&document, 9);
    let definitions = fields(definitions[0], 1);
    assert_eq!(definitions.len(), schemas::closure(&all(&Selection::default()).1).len());
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
