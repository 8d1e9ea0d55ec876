//! Decoding and encoding, among others of upstream's published test objects.

use serde_json::json;

use super::*;

#[track_caller]
fn pod(body: &str) -> Decoded {
    decode(body.as_bytes(), Encoding::Json, "", "v1", "Pod", FieldValidation::Strict).unwrap()
}

#[track_caller]
fn refused(body: &str, group: &str, kind: &str, message: &str) {
    let error =
        decode(body.as_bytes(), Encoding::Json, group, "v1", kind, FieldValidation::Strict).unwrap_err();
    assert_eq!((error.code, error.reason), (400, "BadRequest"));
    assert_eq!(error.message, message);
}

#[test]
fn lengths_of_varints() {
    for number in [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, 1 << 40, u64::MAX] {
        let mut out = Vec::new();
        put_varint(&mut out, number);
        assert_eq!(varint_length(number), out.len(), "{number}");
    }
}

#[test]
fn decodes_and_fills_the_kind() {
    let decoded = pod(r#"{"metadata":{"name":"a"},"spec":{"containers":[{"name":"c","image":"i"}]}}"#);
    assert_eq!(
        decoded.object,
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
            "spec": {"containers": [{"name": "c", "image": "i", "resources": {}}]}, "status": {},
        })
    );
    assert!(decoded.warnings.is_empty());
}

#[test]
fn canonical_form_does_not_depend_on_the_client() {
    let sparse = pod(r#"{"metadata":{"name":"a"},"spec":{"containers":[{"name":"c"}]}}"#);
    let verbose = pod(r#"{"metadata":{"name":"a","creationTimestamp":null,"labels":{}},"status":{},
        "spec":{"hostNetwork":false,"nodeName":"","volumes":[],"containers":[{"name":"c","image":"","resources":{},"env":null}]}}"#);
    assert_eq!(sparse, verbose);
}

#[test]
fn pointers_keep_their_zero_values() {
    let body = r#"{"metadata":{"name":"a"},"spec":{"replicas":0,"selector":{},"template":{"spec":{"containers":[],
        "terminationGracePeriodSeconds":0,"enableServiceLinks":false}}}}"#;
    let decoded =
        decode(body.as_bytes(), Encoding::Json, "apps", "v1", "Deployment", FieldValidation::Strict).unwrap();
    assert_eq!(decoded.object["spec"]["replicas"], 0);
    let spec = &decoded.object["spec"]["template"]["spec"];
    assert_eq!(spec["terminationGracePeriodSeconds"], 0);
    assert_eq!(spec["enableServiceLinks"], false);
    assert_eq!(decoded.object["spec"]["strategy"], json!({}));
}

#[test]
fn values_are_normalised() {
    let decoded = pod(r#"{"metadata":{"name":"a","creationTimestamp":"2024-01-01T02:00:00.5+02:00"},
        "spec":{"containers":[{"name":"c","resources":{"limits":{"cpu":1,"memory":"1024Mi"},"requests":{"cpu":"0.5"}},
        "readinessProbe":{"httpGet":{"port":80}},"livenessProbe":{"httpGet":{"port":"http"}}}]}}"#);
    assert_eq!(decoded.object["metadata"]["creationTimestamp"], "2024-01-01T00:00:00Z");
    let container = &decoded.object["spec"]["containers"][0];
    assert_eq!(
        container["resources"],
        json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}})
    );
    assert_eq!(container["readinessProbe"]["httpGet"]["port"], 80);
    assert_eq!(container["livenessProbe"]["httpGet"]["port"], "http");
}

#[test]
fn type_errors_are_worded_as_upstream() {
    let head = "in version \"v1\" cannot be handled as a";
    refused(
        r#"{"apiVersion":"apps/v1","kind":"Deployment","spec":{"replicas":"3"}}"#,
        "apps",
        "Deployment",
        &format!(
            "Deployment {head} Deployment: json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"
        ),
    );
    let cases = [
        (
            r#"{"spec":{"replicas":1.5}}"#,
            "number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            r#"{"spec":{"replicas":3000000000}}"#,
            "number 3000000000 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (r#"{"spec":[]}"#, "array into Go struct field Deployment.spec of type v1.DeploymentSpec"),
        (
            r#"{"metadata":{"labels":{"a":5}}}"#,
            "number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            r#"{"metadata":{"labels":[]}}"#,
            "array into Go struct field ObjectMeta.metadata.labels of type map[string]string",
        ),
        (
            r#"{"spec":{"template":{"spec":{"containers":[{"env":[{"name":"a","value":5}]}]}}}}"#,
            "number into Go struct field EnvVar.spec.template.spec.containers.env.value of type string",
        ),
        (
            r#"{"spec":{"template":{"spec":{"containers":{}}}}}"#,
            "object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
        ),
        (
            r#"{"spec":{"template":{"spec":{"containers":["x"]}}}}"#,
            "string into Go struct field PodSpec.spec.template.spec.containers of type v1.Container",
        ),
        (
            r#"{"spec":{"template":{"spec":{"volumes":[{"hostPath":"x"}]}}}}"#,
            "string into Go struct field Volume.spec.template.spec.volumes.VolumeSource.hostPath of type v1.HostPathVolumeSource",
        ),
        (
            r#"{"spec":{"template":{"spec":{"restartPolicy":true}}}}"#,
            "bool into Go struct field PodSpec.spec.template.spec.restartPolicy of type v1.RestartPolicy",
        ),
    ];
    for (body, tail) in cases {
        refused(
            body,
            "apps",
            "Deployment",
            &format!("Deployment {head} Deployment: json: cannot unmarshal {tail}"),
        );
    }
    refused(
        r#"{"spec":{"containers":[{"resources":{"limits":{"cpu":"x"}}}]}}"#,
        "",
        "Pod",
        &format!(
            "Pod {head} Pod: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
        ),
    );
    refused(
        r#"{"metadata":{"creationTimestamp":"yesterday"}}"#,
        "",
        "Pod",
        &format!(
            "Pod {head} Pod: parsing time \"yesterday\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"yesterday\" as \"2006\""
        ),
    );
    refused(
        r#"{"data":{"a":"*"}}"#,
        "",
        "Secret",
        &format!("Secret {head} Secret: illegal base64 data at input byte 0"),
    );
}

#[test]
fn unknown_and_duplicate_fields_follow_the_directive() {
    let body = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a","name":"b"},"foo":1,
        "spec":{"containers":[{"name":"c","bar":{"deep":[1,{}]}},{"name":"d","bar":2}],"nodeSelector":{"x":"1","x":"2"}}}"#;
    let errors = [
        r#"duplicate field "metadata.name""#,
        r#"unknown field "foo""#,
        r#"unknown field "spec.containers[0].bar""#,
        r#"unknown field "spec.containers[1].bar""#,
        r#"duplicate field "spec.nodeSelector.x""#,
    ];
    refused(
        body,
        "",
        "Pod",
        &format!(
            "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: {}",
            errors.join(", ")
        ),
    );
    let warned = decode(body.as_bytes(), Encoding::Json, "", "v1", "Pod", FieldValidation::Warn).unwrap();
    assert_eq!(warned.warnings, errors);
    assert_eq!(warned.object["metadata"]["name"], "b");
    assert_eq!(warned.object.get("foo"), None);
    let ignored = decode(body.as_bytes(), Encoding::Json, "", "v1", "Pod", FieldValidation::Ignore).unwrap();
    assert_eq!((ignored.object, ignored.warnings), (warned.object, vec![]));
}

#[test]
fn malformed_json_is_worded_as_go_does() {
    let cases = [
        ("", "unexpected end of JSON input (<empty>)"),
        ("{", "unexpected end of JSON input ({)"),
        (r#"{"a""#, r#"unexpected end of JSON input ({"a")"#),
        ("x", "invalid character 'x' looking for beginning of value (78)"),
        ("{x}", "invalid character 'x' looking for beginning of object key string ({x})"),
        (r#"{"a" 1}"#, r#"invalid character '1' after object key ({"a" 1})"#),
        (r#"{"a":1 "b":2}"#, r#"invalid character '"' after object key:value pair ({"a":1 "b":2})"#),
        (r#"{"a":[1 2]}"#, r#"invalid character '2' after array element ({"a":[1 2]})"#),
        (r#"{"a":[1,]}"#, r#"invalid character ']' looking for beginning of value ({"a":[1,]})"#),
        (r#"{"a":tru}"#, r#"invalid character '}' in literal true (expecting 'e') ({"a":tru})"#),
        (r#"{"a":-}"#, r#"invalid character '}' in numeric literal ({"a":-})"#),
        ("{\"a\":\"\n\"}", "invalid character '\\n' in string literal ({\"a\":\"\n\"})"),
        (r#"{"a":"\x"}"#, r#"invalid character 'x' in string escape code ({"a":"\x"})"#),
        ("{} {}", "invalid character '{' after top-level value ({} {})"),
        (
            r#"{"kind":5}"#,
            r#"json: cannot unmarshal number into Go struct field .kind of type string ({"kind":5})"#,
        ),
    ];
    for (body, tail) in cases {
        let head = "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error:";
        refused(body, "", "Pod", &format!("{head} {tail}"));
    }
}

#[test]
fn other_kinds_are_refused() {
    refused(
        r#"{"kind":"Service","apiVersion":"v1"}"#,
        "",
        "Pod",
        "Service in version \"v1\" cannot be handled as a Pod: converting (v1.Service) to (core.Pod): unknown conversion",
    );
    refused(
        r#"{"kind":"Foo","apiVersion":"v1"}"#,
        "",
        "Pod",
        "Foo in version \"v1\" cannot be handled as a Pod: no kind \"Foo\" is registered for version \"v1\" in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
    );
    refused(
        r#"{"kind":"HorizontalPodAutoscaler","apiVersion":"autoscaling/v2"}"#,
        "autoscaling",
        "HorizontalPodAutoscaler",
        "the API version in the data (autoscaling/v2) does not match the expected API version (autoscaling/v1)",
    );
    let options = r#"{"kind":"DeleteOptions","apiVersion":"policy/v1","gracePeriodSeconds":0}"#;
    let decoded =
        decode(options.as_bytes(), Encoding::Json, "", "v1", "DeleteOptions", FieldValidation::Strict)
            .unwrap();
    assert_eq!(decoded.object["gracePeriodSeconds"], 0);
}

#[test]
fn depth_is_limited() {
    let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    // Unknown fields are skipped without recursion, up to Go's limit.
    let body = format!(r#"{{"foo":{}}}"#, deep(5000));
    assert!(decode(body.as_bytes(), Encoding::Json, "", "v1", "Pod", FieldValidation::Warn).is_ok());
    let body = format!(r#"{{"foo":{}}}"#, deep(20_000));
    let error = decode(body.as_bytes(), Encoding::Json, "", "v1", "Pod", FieldValidation::Warn).unwrap_err();
    assert!(error.message.contains("exceeded max depth"), "{error}");
    let body = format!(r#"{{"data":{}}}"#, deep(1000));
    let error =
        decode(body.as_bytes(), Encoding::Json, "apps", "v1", "ControllerRevision", FieldValidation::Warn)
            .unwrap_err();
    assert!(error.message.contains("exceeded max depth"), "{error}");
    let yaml = deep(1000);
    let error = decode(yaml.as_bytes(), Encoding::Yaml, "", "v1", "Pod", FieldValidation::Warn).unwrap_err();
    assert_eq!(error.code, 400);
}

#[test]
fn yaml_aliases_cannot_explode() {
    let mut body = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for i in 1..12 {
        let previous = format!("*a{}", i - 1);
        body.push_str(&format!("a{i}: &a{i} [{}]\n", vec![previous; 9].join(",")));
    }
    let error = decode(body.as_bytes(), Encoding::Yaml, "", "v1", "Pod", FieldValidation::Warn).unwrap_err();
    assert_eq!(error.code, 400);
}

/// A ReplicaSet's `spec` from text in which keys are repeated.
#[track_caller]
#[allow(clippy::needless_pass_by_value, reason = "cases read better without references")]
fn merged(body: &str, expected: Value) {
    let read = |text: &str| {
        decode(text.as_bytes(), Encoding::Json, "apps", "v1", "ReplicaSet", FieldValidation::Ignore)
            .unwrap()
            .object
    };
    let once = json!({"metadata": {"name": "a"}, "spec": expected});
    assert_eq!(read(&format!(r#"{{"metadata":{{"name":"a"}},{body}}}"#)), read(&once.to_string()), "{body}");
}

#[test]
fn keys_given_twice_are_merged_as_go_reads_into_the_same_struct() {
    merged(
        r#""spec":{"replicas":1,"minReadySeconds":2},"spec":{"replicas":3}"#,
        json!({"replicas": 3, "minReadySeconds": 2}),
    );
    merged(
        r#""spec":{"replicas":1,"minReadySeconds":2},"spec":{"minReadySeconds":0}"#,
        json!({"replicas": 1}),
    );
    merged(
        r#""spec":{"replicas":1,"replicas":null,"minReadySeconds":2,"minReadySeconds":null}"#,
        json!({"minReadySeconds": 2}),
    );
    merged(r#""spec":{"replicas":1},"spec":null"#, json!({"replicas": 1}));
    let labels = |text: &str| format!(r#""spec":{{"selector":{{"matchLabels":{text}}}}}"#);
    let with = |labels: Value| json!({"selector": {"matchLabels": labels}});
    let both = |first: &str, second: &str| format!("{},{}", labels(first), labels(second));
    merged(
        &both(r#"{"a":"1","b":"1"}"#, r#"{"b":"2","c":"2"}"#),
        with(json!({"a": "1", "b": "2", "c": "2"})),
    );
    merged(&both(r#"{"a":"1"}"#, "{}"), with(json!({"a": "1"})));
    merged(&both(r#"{"a":"1"}"#, "null"), json!({"selector": {}}));
    // Lists are read over item by item, and are as long as the last.
    let list = |text: &str| format!(r#""template":{{"spec":{{"containers":{text}}}}}"#);
    let containers = |list: Value| json!({"template": {"spec": {"containers": list}}});
    let both = |first: &str, second: &str| format!(r#""spec":{{{},{}}}"#, list(first), list(second));
    merged(
        &both(
            r#"[{"name":"a","image":"x","command":["p","q"]},{"name":"b"}]"#,
            r#"[{"image":"y","command":["r"]}]"#,
        ),
        containers(json!([{"name": "a", "image": "y", "command": ["r"]}])),
    );
    merged(&both(r#"[{"name":"a"}]"#, "[]"), containers(json!([])));
}

#[test]
fn fields_given_twice_are_told_also_where_they_say_nothing() {
    refused(
        r#"{"metadata":{"name":"a"},"spec":{"nodeName":"","nodeName":"","hostname":"h"},"spec":{"hostname":"i"}}"#,
        "",
        "Pod",
        r#"Pod in version "v1" cannot be handled as a Pod: strict decoding error: duplicate field "spec.nodeName", duplicate field "spec""#,
    );
}

#[test]
fn empty_lists_that_are_faults_are_kept() {
    let read = |body: &str, group: &str, version: &str, kind: &str| {
        decode(body.as_bytes(), Encoding::Json, group, version, kind, FieldValidation::Strict).unwrap().object
    };
    let pod = read(r#"{"spec":{"resources":{"claims":[]},"hostAliases":[]}}"#, "", "v1", "Pod");
    assert_eq!(pod["spec"], json!({"containers": null, "resources": {"claims": []}}));
    let body = r#"{"spec":{"scaleTargetRef":{"kind":"","name":""},"maxReplicas":1,"behavior":{"scaleUp":{"policies":[]}}}}"#;
    let scaler = read(body, "autoscaling", "v2", "HorizontalPodAutoscaler");
    assert_eq!(scaler["spec"]["behavior"]["scaleUp"], json!({"policies": []}));
    assert_eq!(convert(scaler, "autoscaling", "v1").unwrap()["status"]["currentReplicas"], 0);
}

#[test]
fn times_of_conditions_are_null() {
    let body = br#"{"status":{"conditions":[{"type":"T","status":"True"}]}}"#;
    let pod = decode(body, Encoding::Json, "", "v1", "Pod", FieldValidation::Strict).unwrap().object;
    let condition = json!({"type": "T", "status": "True", "lastProbeTime": null, "lastTransitionTime": null});
    assert_eq!(pod["status"]["conditions"], json!([condition]));
    // The creation time's tag leaves it out.
    assert_eq!(pod["metadata"], json!({}));
}

#[test]
fn times_that_an_event_lacks_are_null() {
    let body = r#"{"metadata":{"name":"a"},"involvedObject":{},"firstTimestamp":"2026-01-01T00:00:00Z","series":{"count":2}}"#;
    let core =
        decode(body.as_bytes(), Encoding::Json, "", "v1", "Event", FieldValidation::Strict).unwrap().object;
    let expected = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "a"}, "involvedObject": {}, "source": {},
        "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": null, "eventTime": null,
        "series": {"count": 2, "lastObservedTime": null}, "reportingComponent": "", "reportingInstance": "",
    });
    assert_eq!(core, expected);
    let ty = crate::schema::type_of("", "v1", "Event").unwrap();
    assert!(canonical::is_canonical(&core, ty));
    let other = convert(core.clone(), "events.k8s.io", "v1").unwrap();
    assert_eq!(other["deprecatedLastTimestamp"], Value::Null);
    assert!(other.get("deprecatedLastTimestamp").is_some() && other.get("reportingController").is_none());
    assert_eq!(convert(other, "", "v1").unwrap(), core);
}

#[test]
fn yaml_is_read_and_duplicates_are_found() {
    let body = "kind: Pod\napiVersion: v1\nmetadata:\n  name: a\n  name: b\n";
    let warned = decode(body.as_bytes(), Encoding::Yaml, "", "v1", "Pod", FieldValidation::Warn).unwrap();
    assert_eq!(warned.object["metadata"]["name"], "b");
    assert!(warned.warnings[0].contains("key \"name\" already set in map"), "{:?}", warned.warnings);
    let again = encode(&warned.object, Encoding::Yaml);
    let decoded = decode(&again, Encoding::Yaml, "", "v1", "Pod", FieldValidation::Strict).unwrap();
    assert_eq!(decoded.object, warned.object);
}

#[test]
fn any_kind_is_decoded_by_its_own_name() {
    let body = br#"{"kind":"PodList","apiVersion":"v1","items":[{"metadata":{"name":"a"}}]}"#;
    let list = decode_any(body, Encoding::Json, FieldValidation::Strict).unwrap().object;
    assert_eq!(list["items"][0]["metadata"]["name"], "a");
    let bytes = json_to_protobuf(&list).unwrap();
    assert_eq!(decode_any(&bytes, Encoding::Protobuf, FieldValidation::Strict).unwrap().object, list);
    let error = decode_any(b"{}", Encoding::Json, FieldValidation::Strict).unwrap_err();
    assert_eq!(error.message, "Object 'Kind' is missing in '{}'");
}

#[test]
fn statuses_and_options_have_a_protobuf_form() {
    let status = ApiError::not_found("", "pods", "x").to_status();
    let bytes = json_to_protobuf(&status).unwrap();
    assert_eq!(protobuf_to_json(&bytes).unwrap(), status);
    let table = json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "rows": []});
    assert_eq!(json_to_protobuf(&table).unwrap_err().code, 406);
}

#[test]
fn watch_frames_hold_enveloped_objects() {
    let object = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a"}});
    let frame = encode_watch_event("ADDED", &object, Encoding::Protobuf);
    assert_eq!(usize::try_from(u32::from_be_bytes(frame[..4].try_into().unwrap())).unwrap(), frame.len() - 4);
    let ty = schema::by_name("meta.v1.WatchEvent").unwrap();
    let event = protobuf::read_message(ty, &frame[4..], 0).unwrap();
    assert_eq!(event["type"], "ADDED");
    assert_eq!(event["object"], object);
    let line = encode_watch_event("ADDED", &object, Encoding::Json);
    let line: Value = serde_json::from_slice(&line).unwrap();
    assert_eq!(line, json!({"type": "ADDED", "object": object}));
}

#[test]
fn heads_of_watch_frames_fit_objects_of_every_length() {
    let ty = schema::by_name("meta.v1.WatchEvent").unwrap();
    // Lengths of one, two, three and four bytes.
    for padding in [0, 20, 100, 127, 128, 16_000, 16_384, 3 << 20] {
        let data = json!({"k": "v".repeat(padding)});
        let object =
            json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a"}, "data": data});
        let bytes = json_to_protobuf(&object).unwrap();
        for kind in ["ADDED", "BOOKMARK"] {
            let mut frame = bytes::BytesMut::from(&b"before"[..]);
            watch_frame_head(kind, bytes.len(), &mut frame);
            assert!(frame.len() - 6 <= WATCH_FRAME_HEAD_MAX);
            frame.extend_from_slice(&bytes);
            let (length, event) = frame[6..].split_at(4);
            assert_eq!(usize::try_from(u32::from_be_bytes(length.try_into().unwrap())).unwrap(), event.len());
            let event = protobuf::read_message(ty, event, 0).unwrap();
            assert_eq!((&event["type"], &event["object"]), (&json!(kind), &object));
        }
    }
}

#[test]
fn malformed_protobuf_is_refused() {
    let decode = |body: &[u8]| decode(body, Encoding::Protobuf, "", "v1", "Pod", FieldValidation::Strict);
    assert_eq!(decode(b"nonsense").unwrap_err().code, 400);
    let bytes =
        json_to_protobuf(&json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a"}})).unwrap();
    for cut in 5..bytes.len() {
        if let Ok(decoded) = decode(&bytes[..cut]) {
            assert_eq!(decoded.object["kind"], "Pod");
        }
    }
    assert!(decode(b"k8s\0\x12\xff\xff\xff\xff\xff\xff\xff\xff\x7f").is_err());
}

#[test]
fn events_convert_between_their_groups() {
    let core = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "involvedObject": {"name": "p"},
        "message": "m", "count": 2, "source": {"component": "c"}, "reportingComponent": "c", "reason": "r",
        "reportingInstance": "",
    });
    let new = convert(core.clone(), "events.k8s.io", "v1").unwrap();
    assert_eq!(new["regarding"], json!({"name": "p"}));
    assert_eq!(
        (&new["note"], &new["deprecatedCount"], &new["reportingController"]),
        (&json!("m"), &json!(2), &json!("c"))
    );
    assert_eq!(new["apiVersion"], "events.k8s.io/v1");
    assert_eq!(convert(new, "", "v1").unwrap(), core);
    assert!(convert(core, "apps", "v1").is_err());
}

#[test]
fn autoscalers_convert_between_versions() {
    let v2 = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
        "spec": {"maxReplicas": 3, "behavior": {"scaleUp": {"selectPolicy": "Max"}}, "metrics": [
            {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}},
            {"type": "Pods", "pods": {"metric": {"name": "q", "selector": {"matchLabels": {"a": "b"}}},
                "target": {"type": "AverageValue", "averageValue": "5"}}},
            {"type": "Object", "object": {"metric": {"name": "q"}, "describedObject": {"kind": "Service", "name": "s"},
                "target": {"type": "Value", "value": "5"}}},
        ]},
        "status": {"desiredReplicas": 1, "conditions": [{"type": "AbleToScale", "status": "True"}]},
    });
    let v1 = convert(v2.clone(), "autoscaling", "v1").unwrap();
    assert_eq!(v1["spec"], json!({"maxReplicas": 3, "targetCPUUtilizationPercentage": 80}));
    assert_eq!(convert(v1, "autoscaling", "v2").unwrap(), v2);
}

#[test]
fn device_claims_convert_between_versions() {
    let beta = json!({
        "apiVersion": "resource.k8s.io/v1beta1", "kind": "ResourceClaim", "metadata": {"name": "c"},
        "spec": {"devices": {"requests": [{"name": "r", "deviceClassName": "gpu", "count": 2}]}},
    });
    let v1 = convert(beta.clone(), "resource.k8s.io", "v1").unwrap();
    let request = json!({"name": "r", "exactly": {"deviceClassName": "gpu", "count": 2}});
    assert_eq!(v1["spec"]["devices"]["requests"][0], request);
    assert_eq!(convert(v1, "resource.k8s.io", "v1beta1").unwrap(), beta);
}

/// Kinds that no request or answer has as a body, and why: these are parameters of URLs,
const PARAMETERS: [&str; 9] = [
    "v1 GetOptions",
    "v1 ListOptions",
    "v1 NodeProxyOptions",
    "v1 PodAttachOptions",
    "v1 PodExecOptions",
    "v1 PodLogOptions",
    "v1 PodPortForwardOptions",
    "v1 PodProxyOptions",
    "v1 ServiceProxyOptions",
];
/// and these upstream keeps to itself, sends to webhooks, or makes in JSON alone (discovery is tested for itself).
const INTERNAL: [&str; 6] = [
    // A watch event, which names no kind of its own.
    " ",
    "admission.k8s.io/v1 AdmissionReview",
    "apidiscovery.k8s.io/v2 APIGroupDiscovery",
    "v1 PodStatusResult",
    "v1 RangeAllocation",
    "v1 SerializedReference",
];

/// Every published object of a known kind, between JSON, YAML and protobuf in all directions, and upstream's protobuf
/// bytes. Unknown may be only what is off by default.
#[test]
fn published_objects_round_trip() {
    let directory =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../../shared/data/api-testdata");
    let Ok(entries) = std::fs::read_dir(&directory) else {
        println!("skipped: no ../shared/data/api-testdata beside the workspace");
        return;
    };
    let (mut checked, mut different, mut unknown) = (0, vec![], vec![]);
    for path in entries.map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "json")) {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let body = std::fs::read(&path).unwrap();
        let raw: Value = serde_json::from_slice(&body).unwrap();
        let (api_version, kind) = kind_of(&raw);
        let (group, version) = split_api_version(api_version);
        if schema::type_of(group, version, kind).is_none() {
            unknown.push(format!("{api_version} {kind}"));
            continue;
        }
        let decode = |body: &[u8], encoding| {
            decode(body, encoding, group, version, kind, FieldValidation::Strict)
                .map_err(|e| format!("{name}: {e}"))
                .unwrap()
        };
        let from_json = decode(&body, Encoding::Json).object;
        assert_eq!(from_json, raw, "{name}: decoding loses or adds something");
        let from_yaml = decode(&std::fs::read(path.with_extension("yaml")).unwrap(), Encoding::Yaml).object;
        assert_eq!(from_yaml, raw, "{name}");
        let protobuf = std::fs::read(path.with_extension("pb")).unwrap();
        assert_eq!(decode(&protobuf, Encoding::Protobuf).object, raw, "{name}");
        let ours = json_to_protobuf(&raw).unwrap();
        assert_eq!(protobuf_to_json(&ours).unwrap(), raw, "{name}");
        let written = encode(&raw, Encoding::Yaml);
        assert_eq!(decode(&written, Encoding::Yaml).object, raw, "{name}: YAML that we wrote");
        assert_eq!(
            decode(&encode(&raw, Encoding::Json), Encoding::Json).object,
            raw,
            "{name}: JSON that we wrote"
        );
        if ours != protobuf {
            different.push(name.clone());
        }
        checked += 1;
    }
    println!("{checked} objects checked, {} of versions that are off by default: {unknown:?}", unknown.len());
    let off = |name: &str| name.contains("alpha") || name.contains("beta");
    let missing: Vec<_> = unknown
        .iter()
        .filter(|name| {
            !off(name) && !PARAMETERS.contains(&name.as_str()) && !INTERNAL.contains(&name.as_str())
        })
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert_eq!(different, [""; 0], "bytes differ from upstream's");
    assert!(checked > 80, "{checked}");
}

mod properties {
    //! What must hold for any input.

    use proptest::prelude::*;

    use super::*;

    /// Text that is nearly a pod: pieces that mean something, in any order.
    fn nearly_json() -> impl Strategy<Value = String> {
        let pieces = [
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "null",
            "true",
            "1",
            "-0.5e3",
            "\"\"",
            "\"spec\"",
            "\"containers\"",
            "\"metadata\"",
            "\"labels\"",
            "\"kind\"",
            "\"Pod\"",
            "\"\\ud800\"",
            "\"limits\"",
            "\"cpu\"",
            " ",
            "\n",
            "\"data\"",
            "\u{e9}",
            "x",
        ];
        proptest::collection::vec(proptest::sample::select(pieces.to_vec()), 0..40).prop_map(|p| p.concat())
    }

    fn labels() -> impl Strategy<Value = Value> {
        proptest::collection::btree_map("[a-z]{1,4}", "[a-z\u{e9}\"\\\\]{0,4}", 0..4)
            .prop_map(|map| json!(map))
    }

    prop_compose! {
        fn a_pod()(
            name in "[a-z]{0,8}",
            labels in labels(),
            // Protobuf has no empty lists, in upstream as here.
            images in proptest::collection::vec("[a-z]{0,5}", 1..4),
            grace in proptest::option::of(-5i64..100),
            host_network in any::<bool>(),
            memory in 0u64..1 << 40,
            port in prop_oneof![(0u16..).prop_map(Value::from), "[a-z]{1,5}".prop_map(Value::from)],
        ) -> Value {
            let containers: Vec<Value> = images
                .iter()
                .map(|image| json!({
                    "name": image, "image": image, "resources": {"limits": {"memory": memory}},
                    "livenessProbe": {"httpGet": {"port": port}},
                }))
                .collect();
            json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
                "spec": {"containers": containers, "terminationGracePeriodSeconds": grace, "hostNetwork": host_network},
            })
        }
    }

    proptest! {
        #[test]
        fn no_body_panics(body in proptest::collection::vec(any::<u8>(), 0..200), text in nearly_json()) {
            for body in [body.as_slice(), text.as_bytes(), &[b"k8s\0", body.as_slice()].concat()] {
                for encoding in [Encoding::Json, Encoding::Yaml, Encoding::Protobuf] {
                    if let Err(error) = decode(body, encoding, "", "v1", "Pod", FieldValidation::Warn) {
                        prop_assert_eq!(error.code, 400);
                    }
                }
            }
        }

        /// Whatever is JSON is JSON for us, and the other way round.
        #[test]
        fn json_is_what_others_take_for_json(text in nearly_json()) {
            let theirs = serde_json::from_str::<Value>(&text).is_ok();
            // Lone surrogates are errors there and replaced in Go.
            prop_assume!(!text.contains("ud800"));
            prop_assert_eq!(json::read_any(&text).is_ok(), theirs);
        }

        #[test]
        fn forms_of_an_object_are_equal(pod in a_pod()) {
            let decode = |body: &[u8], encoding| {
                decode(body, encoding, "", "v1", "Pod", FieldValidation::Strict).map(|d| d.object)
            };
            let object = decode(pod.to_string().as_bytes(), Encoding::Json)?;
            for encoding in [Encoding::Json, Encoding::Yaml, Encoding::Protobuf] {
                prop_assert_eq!(&decode(&encode(&object, encoding), encoding)?, &object);
            }
        }
    }
}
