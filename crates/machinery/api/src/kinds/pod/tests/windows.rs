//! Pods of Windows: what only one of the two systems has.

use super::*;

/// What is refused of a user's name, without what all those texts begin with.
#[track_caller]
fn check_user(name: &str, faults: &[&str]) {
    let faults: Vec<String> = faults
        .iter()
        .map(|fault| {
            let shown = json!(name);
            format!("spec.containers[0].securityContext.windowsOptions.runAsUserName: Invalid value: {shown}: runAsUserName{fault}")
        })
        .collect();
    let options = json!({"securityContext": {"windowsOptions": {"runAsUserName": name}}});
    check(&with_container(options), &faults.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn users_are_named_as_active_directory_would() {
    for good in ["Administrator", r"NT AUTHORITY\SYSTEM", r"a.b-c.example\user", ".hidden. ", "x y"] {
        check_user(good, &[]);
    }
    check_user("", &[" cannot be an empty string"]);
    check_user("a\u{7}b", &[" cannot contain control characters"]);
    check_user(r"a\b\c", &[" cannot contain more than one backslash"]);
    check_user(r"a\", &["'s User cannot be empty"]);
    check_user(r"\a", &["'s Domain doesn't match the NetBios nor the DNS format"]);
    check_user(r"sixteen-letters-\a", &["'s Domain doesn't match the NetBios nor the DNS format"]);
    check_user(r"fifteen-letters\a", &[]);
    check_user(
        &format!("{}\\a", ["x"; 128].join(".") + "y"),
        &["'s Domain length must be under 256 characters"],
    );
    check_user(&"u".repeat(104), &[]);
    check_user(&"u".repeat(105), &["'s User length must not be longer than 104 characters"]);
    check_user(". .", &["'s User cannot contain only periods or spaces"]);
    let characters = r#"'s User cannot contain the following characters: "/\:;|=,+*?<>@[]"#;
    check_user("a@b", &[characters]);
}

#[test]
fn credentials_of_groups_are_named_or_given() {
    let context = |options: Value| pod(json!({"securityContext": {"windowsOptions": options}}));
    let at = "spec.securityContext.windowsOptions";
    check(&context(json!({"gmsaCredentialSpecName": "webapp", "gmsaCredentialSpec": "{}"})), &[]);
    check(
        &context(json!({"gmsaCredentialSpec": ""})),
        &[&format!(
            "{at}.gmsaCredentialSpec: Invalid value: \"\": gmsaCredentialSpec cannot be an empty string"
        )],
    );
    let long = "x".repeat(64 * 1024 + 1);
    check(
        &context(json!({"gmsaCredentialSpec": long})),
        &[&format!(
            "{at}.gmsaCredentialSpec: Invalid value: \"{long}\": gmsaCredentialSpec size must be under 64 KiB"
        )],
    );
    let mut errors = Errors::new();
    Pod.validate(&context(json!({"gmsaCredentialSpecName": "Web_App"})), &mut errors);
    assert!(
        errors.0[0]
            .to_string()
            .starts_with(&format!("{at}.gmsaCredentialSpecName: Invalid value: \"Web_App\""))
    );
}

#[test]
fn processes_of_the_host_are_all_or_none() {
    let containers = |first: Value, second: Value| {
        json!([
            {"name": "a", "image": "i", "securityContext": {"windowsOptions": first}},
            {"name": "b", "image": "i", "securityContext": {"windowsOptions": second}},
        ])
    };
    let (yes, no) = (json!({"hostProcess": true}), json!({"hostProcess": false}));
    check(&pod(json!({"hostNetwork": true, "containers": containers(yes.clone(), yes.clone())})), &[]);
    check(
        &pod(json!({"containers": containers(yes.clone(), json!({}))})),
        &[
            "spec: Invalid value: \"\": If pod contains any hostProcess containers then all containers must be HostProcess containers",
            "spec.hostNetwork: Invalid value: false: hostNetwork must be true if pod contains any hostProcess containers",
        ],
    );
    let inherited = json!({
        "hostNetwork": true, "securityContext": {"windowsOptions": yes}, "containers": containers(json!({}), no),
    });
    check(
        &pod(inherited),
        &[
            "spec.containers[1].securityContext.windowsOptions.hostProcess: Invalid value: false: pod hostProcess value must be identical if both are specified, was true",
            "spec: Invalid value: \"\": If pod contains any hostProcess containers then all containers must be HostProcess containers",
        ],
    );
}

#[test]
fn what_one_system_lacks_is_refused() {
    let own = |context: Value| json!([{"name": "c", "image": "i", "securityContext": context}]);
    let linux = "windows options cannot be set for a linux pod";
    check(
        &pod(json!({
            "os": {"name": "linux"}, "securityContext": {"windowsOptions": {}}, "containers": own(json!({"windowsOptions": {}})),
        })),
        &[
            &format!("spec.securityContext.windowsOptions: Forbidden: {linux}"),
            &format!("spec.containers[0].securityContext.windowsOptions: Forbidden: {linux}"),
        ],
    );
    let windows = "Forbidden: cannot be set for a windows pod";
    check(
        &pod(json!({
            "os": {"name": "windows"}, "hostPID": true,
            "securityContext": {"runAsUser": 1, "fsGroup": 1, "runAsNonRoot": true, "sysctls": []},
            "containers": own(json!({"privileged": false, "capabilities": {}})),
        })),
        &[
            &format!("spec.hostPID: {windows}"),
            &format!("spec.securityContext.fsGroup: {windows}"),
            &format!("spec.securityContext.runAsUser: {windows}"),
            &format!("spec.containers[0].securityContext.capabilities: {windows}"),
            &format!("spec.containers[0].securityContext.privileged: {windows}"),
        ],
    );
}
