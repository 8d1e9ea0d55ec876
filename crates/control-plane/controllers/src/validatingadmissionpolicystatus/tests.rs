//! What is found wrong with expressions, and what is not.

use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use serde_json::{Value, json};

use super::decide::decide;
use super::expression::parse;
use crate::testing::api::{FakeApi, Running};

fn policy(spec: Value) -> ValidatingAdmissionPolicy {
    let mut object = json!({"metadata": {"name": "p", "generation": 1}, "spec": {
        "matchConstraints": {"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"],
            "operations": ["CREATE"]}]}}});
    let Value::Object(fields) = spec else { panic!("fields of the spec") };
    fields.into_iter().for_each(|(field, value)| object["spec"][field] = value);
    serde_json::from_value(object).unwrap()
}

/// What is wrong with an expression about Deployments: place and message of each issue.
fn wrong(expression: &str) -> Vec<String> {
    let policy = policy(
        json!({"validations": [{"expression": expression}], "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "variables": [{"name": "count", "expression": "object.spec.replicas"}, {"name": "twice", "expression": "variables.count * 2"}]}),
    );
    let checking = decide(&policy).unwrap().type_checking.unwrap();
    let warnings = checking.expression_warnings.unwrap_or_default();
    let lines =
        warnings.iter().flat_map(|it| it.warning.lines()).filter_map(|line| line.split_once("<input>:"));
    lines.map(|(_, issue)| issue.to_owned()).collect()
}

#[test]
fn sound_expressions_are_left_alone() {
    for expression in [
        "object.spec.replicas > 1",
        "object.spec.replicas >= 1.5 || object.spec.replicas < 3u",
        "!has(object.metadata.labels) || object.metadata.labels['a'] == 'b' && object.metadata.labels.c != \"d\"",
        "object.spec.template.spec.containers.all(c, c.image.startsWith('r/') && !c.?securityContext.privileged.orValue(false))",
        "object.spec.template.spec.containers.map(c, c.name).exists(name, name in ['a', 'b'])",
        "object.spec.template.spec.containers.filter(c, has(c.ports)).size() == 0",
        "object.metadata.labels.all(key, value, key.size() < value.size())",
        "oldObject == null || oldObject.spec.replicas == object.spec.replicas",
        "params.data.max == string(variables.twice) // as said",
        "authorizer.group('').resource('pods').check('create').allowed() && request.userInfo.username != ''",
        "namespaceObject.metadata.name.matches(r'^[a-z]\\d+$')",
        "(object.spec.paused ? 1 : object.spec.replicas) - -2 % 3 <= 0x1F",
        "cel.bind(n, object.spec.replicas, n > 1 && n < 5)",
        "quantity('1Gi').isGreaterThan(quantity('1Mi')) && timestamp('2026-01-01T00:00:00Z') > object.metadata.creationTimestamp",
        "object.spec.template.spec.volumes[0].hostPath.path == \"\"\"a\"b\"\"\"",
        "{'a': 1}['a'] == 1 && [1, 2.5, 'x'].size() == int('3') && b'x' == bytes('x') && 1e-3 < .5",
        "object.spec.strategy.rollingUpdate.maxSurge == 1",
    ] {
        assert_eq!(wrong(expression), [""; 0], "{expression}");
    }
}

#[test]
fn what_does_not_fit_is_told_with_its_place() {
    for (expression, expected) in [
        ("object.spec.maxRetries > 1", "1:12: undefined field 'maxRetries'"),
        (
            "object.spec.replicas > '1'",
            "1:22: found no matching overload for '_>_' applied to '(int, string)'",
        ),
        (
            "object.spec.replicas == '1'",
            "1:22: found no matching overload for '_==_' applied to '(int, string)'",
        ),
        (
            "object.metadata.name && true",
            "1:22: found no matching overload for '_&&_' applied to '(string, bool)'",
        ),
        ("!object.spec.replicas", "1:1: found no matching overload for '!_' applied to '(int)'"),
        (
            "object.spec.replicas + 'a' == 'b'",
            "1:22: found no matching overload for '_+_' applied to '(int, string)'",
        ),
        ("object.metadata.name.first == 'a'", "1:21: type 'string' does not support field selection"),
        ("objekt.spec.replicas > 1", "1:1: undeclared reference to 'objekt' (in container '')"),
        ("has(object.spec.nothing)", "1:16: undefined field 'nothing'"),
        ("variables.thrice > 1", "1:10: undefined field 'thrice'"),
        ("variables.twice > 'a'", "1:17: found no matching overload for '_>_' applied to '(int, string)'"),
        ("object.spec.template.spec.containers.all(c, c.nam == 'a')", "1:46: undefined field 'nam'"),
        (
            "object.spec.template.spec.containers.exists(c, d.name == 'a')",
            "1:48: undeclared reference to 'd' (in container '')",
        ),
        ("true &&\n  object.spec.no", "2:14: undefined field 'no'"),
        ("1 in ['a']", "1:3: found no matching overload for '@in' applied to '(int, list(string))'"),
        (
            "object.metadata.labels['a'] > 1",
            "1:29: found no matching overload for '_>_' applied to '(string, int)'",
        ),
        ("params.datum.max == 'a'", "1:7: undefined field 'datum'"),
        ("object.spec.replicas >", "1:23: Syntax error: unexpected end"),
        ("object.spec.replicas ? 1", "1:25: Syntax error: unexpected end"),
        ("'a", "1:1: Syntax error: text without an end"),
        ("1 2", "1:3: Syntax error: unexpected '2'"),
        ("99999999999999999999 > 1", "1:1: Syntax error: invalid number \"99999999999999999999\""),
    ] {
        assert_eq!(wrong(expression), [expected], "{expression}");
    }
    assert_eq!(wrong("object.a == object.b").len(), 2);
    for deep in [
        format!("{}1{}", "(".repeat(5000), ")".repeat(5000)),
        format!("{}true", "!".repeat(100_000)),
        format!("object{}", ".a".repeat(100_000)),
        format!("true{}", " || true".repeat(100_000)),
        format!("{}1", "true ? 1 : ".repeat(100_000)),
    ] {
        let issue = parse(&deep).unwrap_err();
        assert_eq!(issue.message, "Syntax error: expression recursion limit exceeded");
    }
}

#[test]
fn warnings_name_kinds_and_show_the_line() {
    let rules = json!({"resourceRules": [
        {"apiGroups": ["", "apps"], "apiVersions": ["v1"], "resources": ["pods", "pods/log", "replicasets"], "operations": ["*"]},
        {"apiGroups": ["*"], "apiVersions": ["v1"], "resources": ["services"], "operations": ["*"]},
        {"apiGroups": ["e.io"], "apiVersions": ["v1"], "resources": ["odds"], "operations": ["*"]}]});
    let spec = json!({"matchConstraints": rules, "validations": [
        {"expression": "true"},
        {"expression": "object.spec.replicas > 1", "messageExpression": "'have ' + object.spec.hostNetwork"}]});
    let status = decide(&policy(spec)).unwrap();
    let warnings = status.type_checking.unwrap().expression_warnings.unwrap();
    let told: Vec<(&str, &str)> =
        warnings.iter().map(|it| (it.field_ref.as_str(), it.warning.as_str())).collect();
    assert_eq!(
        told[0],
        (
            "spec.validations[1].expression",
            "/v1, Kind=Pod: ERROR: <input>:1:12: undefined field 'replicas'\n | object.spec.replicas > 1\n | ...........^\n",
        )
    );
    assert_eq!(told[1].0, "spec.validations[1].messageExpression");
    let kinds: Vec<&str> = told[1]
        .1
        .lines()
        .filter_map(|line| line.split(": ERROR").nth(1).and(line.split(':').next()))
        .collect();
    assert_eq!(kinds, ["/v1, Kind=Pod", "apps/v1, Kind=ReplicaSet"]);
    let seen =
        ValidatingAdmissionPolicy { status: Some(decide(&policy(json!({}))).unwrap()), ..policy(json!({})) };
    assert_eq!(decide(&seen), None, "it was looked at");
}

#[tokio::test(start_paused = true)]
async fn a_changed_policy_is_looked_at_again() {
    let api = FakeApi::default();
    let running = Running::start(&api, &["validatingadmissionpolicy-status-controller"]);
    let resource = "admissionregistration.k8s.io/validatingadmissionpolicies";
    api.create(resource, &policy(json!({"validations": [{"expression": "object.spec.no"}]})));
    let status = |api: &FakeApi| {
        let policy: ValidatingAdmissionPolicy = api.get(resource, "", "p").unwrap();
        let status = policy.status.unwrap_or_default();
        let warnings = status.type_checking.and_then(|it| it.expression_warnings).unwrap_or_default();
        (status.observed_generation.unwrap_or(0), warnings.len())
    };
    api.until("it is warned about", |_| {}, |api| status(api) == (1, 1)).await;
    api.edit(resource, "", "p", |policy| policy["spec"]["validations"][0]["expression"] = json!("true"));
    api.until("it is mended", |_| {}, |api| status(api) == (2, 0)).await;
    running.stop().await;
}
