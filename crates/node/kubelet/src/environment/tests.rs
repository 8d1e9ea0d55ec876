//! Expansion, precedence, references and their errors.

use k8s_openapi::api::core::v1::{
    ConfigMapEnvSource, ConfigMapKeySelector, EnvFromSource, EnvVarSource, ObjectFieldSelector, PodSpec,
    ResourceFieldSelector, SecretKeySelector, ServicePort, ServiceSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::*;

fn pod() -> Pod {
    Pod {
        metadata: ObjectMeta {
            name: Some("web".into()),
            namespace: Some("production".into()),
            labels: Some([("app".to_owned(), "web".to_owned())].into()),
            ..Default::default()
        },
        spec: Some(PodSpec { node_name: Some("n1".into()), ..Default::default() }),
        ..Default::default()
    }
}

fn literal(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.into(), value: Some(value.into()), value_from: None }
}

fn from(name: &str, source: EnvVarSource) -> EnvVar {
    EnvVar { name: name.into(), value: None, value_from: Some(source) }
}

fn sources() -> Sources {
    Sources {
        config_maps: [("cfg".to_owned(), [("mode".to_owned(), b"fast".to_vec())].into())].into(),
        secrets: [("db".to_owned(), [("password".to_owned(), ByteString(b"s3".to_vec()))].into())].into(),
        pod_ips: vec!["10.244.0.5".into()],
        host_ips: vec!["192.0.2.1".into()],
        allocatable: [("cpu".to_owned(), Quantity("2".into()))].into(),
        files: [
            ("own.env", Ok(Some("A='one'\nE=''\n"))),
            ("gone.env", Ok(None)),
            ("bad.env", Ok(Some("nonsense"))),
        ]
        .map(|(path, text)| {
            let text = text.map(|text: Option<&str>| text.map(str::to_owned));
            (("v".to_owned(), path.to_owned()), EnvFile { at: PathBuf::from("/pods/v").join(path), text })
        })
        .into(),
        services: vec![],
    }
}

#[track_caller]
fn check(env: Vec<EnvVar>, expected: &[(&str, &str)]) {
    let container = Container { env: Some(env), ..Default::default() };
    let built = build(&pod(), &container, &sources()).unwrap();
    let built: Vec<(&str, &str)> = built.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(built, expected);
}

#[test]
fn expansion() {
    let value = |name: &str| (name == "A").then(|| "1".to_owned());
    for (text, expected) in [
        ("$(A)", "1"),
        ("x$(A)y$(A)", "x1y1"),
        ("$(B)", "$(B)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$A", "$A"),
        ("$(A", "$(A"),
        ("$", "$"),
        ("a$$b", "a$b"),
    ] {
        assert_eq!(expand(text, value), expected, "{text}");
    }
}

#[test]
fn literals_see_what_came_before() {
    check(
        vec![
            literal("A", "1"),
            literal("B", "$(A)2 $(C)"),
            literal("C", "3"),
            literal("A", "9"),
            literal("E", ""),
        ],
        &[("A", "9"), ("B", "12 $(C)"), ("C", "3"), ("E", "")],
    );
}

#[test]
fn every_source() {
    let field = |path: &str| EnvVarSource {
        field_ref: Some(ObjectFieldSelector { field_path: path.into(), ..Default::default() }),
        ..Default::default()
    };
    let key = ConfigMapKeySelector { name: "cfg".into(), key: "mode".into(), optional: None };
    let secret = SecretKeySelector { name: "db".into(), key: "password".into(), optional: None };
    let cpu = ResourceFieldSelector {
        resource: "limits.cpu".into(),
        divisor: Some(Quantity("1m".into())),
        container_name: None,
    };
    check(
        vec![
            from("NAME", field("metadata.name")),
            from("LABEL", field("metadata.labels['app']")),
            from("IP", field("status.podIP")),
            from("NODE", field("spec.nodeName")),
            from("MODE", EnvVarSource { config_map_key_ref: Some(key), ..Default::default() }),
            from("PW", EnvVarSource { secret_key_ref: Some(secret), ..Default::default() }),
            from("CPU", EnvVarSource { resource_field_ref: Some(cpu), ..Default::default() }),
        ],
        &[
            ("NAME", "web"),
            ("LABEL", "web"),
            ("IP", "10.244.0.5"),
            ("NODE", "n1"),
            ("MODE", "fast"),
            ("PW", "s3"),
            ("CPU", "2000"),
        ],
    );
}

#[test]
fn missing_references() {
    let error = |source: EnvVarSource| {
        let container = Container { env: Some(vec![from("X", source)]), ..Default::default() };
        build(&pod(), &container, &sources()).map(|env| env.len()).map_err(|error| error.to_string())
    };
    let map = |name: &str, key: &str, optional| EnvVarSource {
        config_map_key_ref: Some(ConfigMapKeySelector { name: name.into(), key: key.into(), optional }),
        ..Default::default()
    };
    let secret = |name: &str, key: &str| EnvVarSource {
        secret_key_ref: Some(SecretKeySelector { name: name.into(), key: key.into(), optional: None }),
        ..Default::default()
    };
    assert_eq!(error(map("gone", "k", None)), Err("configmap \"gone\" not found".into()));
    assert_eq!(error(map("cfg", "k", None)), Err("couldn't find key k in ConfigMap production/cfg".into()));
    assert_eq!(error(map("cfg", "k", Some(true))), Ok(0));
    assert_eq!(error(secret("gone", "k")), Err("secret \"gone\" not found".into()));
    assert_eq!(error(secret("db", "k")), Err("couldn't find key k in Secret production/db".into()));
}

#[test]
fn files_of_volumes() {
    let file = |volume: &str, path: &str, key: &str, optional| {
        let (volume_name, path, key) = (volume.into(), path.into(), key.into());
        let selector = FileKeySelector { volume_name, path, key, optional };
        from("X", EnvVarSource { file_key_ref: Some(selector), ..Default::default() })
    };
    check(vec![file("v", "own.env", "A", None), literal("Y", "$(X)!")], &[("X", "one"), ("Y", "one!")]);
    let built = |env: EnvVar| {
        let container = Container { env: Some(vec![env]), ..Default::default() };
        build(&pod(), &container, &sources()).map(|env| env.len()).map_err(|error| error.to_string())
    };
    let no_volume = "cannot find the volume \"w\" referenced by FileKeyRef";
    let no_key =
        |key: &str| format!("environment variable key {key:?} not found in file \"/pods/v/own.env\"");
    for (volume, path, key, required, optional) in [
        ("v", "own.env", "B", Err(no_key("B")), Ok(0)),
        ("v", "own.env", "E", Err(no_key("E")), Ok(0)),
        ("v", "gone.env", "A", Err("couldn't parse env file".to_owned()), Ok(0)),
        (
            "v",
            "bad.env",
            "A",
            Err("couldn't parse env file".to_owned()),
            Err("couldn't parse env file".to_owned()),
        ),
        ("w", "own.env", "A", Err(no_volume.to_owned()), Err(no_volume.to_owned())),
    ] {
        assert_eq!(built(file(volume, path, key, Some(false))), required, "{path} {key}");
        assert_eq!(built(file(volume, path, key, Some(true))), optional, "optional {path} {key}");
    }
    let container = Container {
        env: Some(vec![
            file("v", "b", "K", None),
            file("v", "a", "K", None),
            file("v", "b", "L", None),
            literal("Z", "z"),
        ]),
        ..Default::default()
    };
    let place = |path: &str| ("v".to_owned(), path.to_owned());
    assert_eq!(files(&container), [place("a"), place("b")].into());
}

#[test]
fn whole_maps_come_first_and_are_shadowed() {
    let container = Container {
        env_from: Some(vec![EnvFromSource {
            prefix: Some("P_".into()),
            config_map_ref: Some(ConfigMapEnvSource { name: "cfg".into(), optional: None }),
            ..Default::default()
        }]),
        env: Some(vec![literal("X", "$(P_mode)"), literal("P_mode", "slow")]),
        ..Default::default()
    };
    let built = build(&pod(), &container, &sources()).unwrap();
    assert_eq!(built, [("P_mode".to_owned(), "slow".to_owned()), ("X".to_owned(), "fast".to_owned())]);
}

#[test]
fn services() {
    let service = |namespace: &str, name: &str, ip: &str| {
        std::sync::Arc::new(Service {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some(namespace.into()),
                ..Default::default()
            },
            spec: Some(ServiceSpec {
                cluster_ip: Some(ip.into()),
                ports: Some(vec![ServicePort { name: Some("http".into()), port: 80, ..Default::default() }]),
                ..Default::default()
            }),
            ..Default::default()
        })
    };
    let all = [
        service("default", "kubernetes", "10.96.0.1"),
        service("production", "web-app", "10.96.0.9"),
        service("production", "headless", "None"),
        service("other", "far", "10.96.0.8"),
    ];
    let linked = service_variables(&all, "production", true);
    for (name, value) in [
        ("WEB_APP_SERVICE_HOST", "10.96.0.9"),
        ("WEB_APP_SERVICE_PORT", "80"),
        ("WEB_APP_SERVICE_PORT_HTTP", "80"),
        ("WEB_APP_PORT", "tcp://10.96.0.9:80"),
        ("WEB_APP_PORT_80_TCP_ADDR", "10.96.0.9"),
        ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
    ] {
        assert_eq!(linked.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert_eq!(linked.len(), 16);
    let alone = service_variables(&all, "production", false);
    assert!(alone.contains_key("KUBERNETES_PORT") && !alone.contains_key("WEB_APP_PORT"));
}
