//! Who may write the bundles of a signer.

use super::*;

#[test]
fn bundles_of_a_signer_are_written_by_who_attests_for_it() {
    let world = World::new();
    let rule = |names: Value| json!([{"apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "verbs": ["attest"], "resourceNames": names}]);
    for (user, names) in [
        ("one", json!(["example.com/ca"])),
        ("domain", json!(["example.com/*"])),
        ("other", json!(["x.y/z"])),
    ] {
        world.memory.put(RBAC, "clusterroles", json!({"metadata": {"name": user}, "rules": rule(names)}));
        world.memory.put(
            RBAC,
            "clusterrolebindings",
            json!({"metadata": {"name": user}, "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": user},
                   "subjects": [{"apiGroup": RBAC, "kind": "User", "name": user}]}),
        );
    }
    let of =
        |signer: &str| json!({"metadata": {"name": "b"}, "spec": {"signerName": signer, "trustBundle": "x"}});
    let write = |user: &str, object: Value| Write {
        user: User::new(user, &[]),
        namespace: "",
        ..Write::create("certificates.k8s.io", "clustertrustbundles").of(object)
    };
    for user in ["one", "domain"] {
        assert!(write(user, of("example.com/ca")).run(&world).is_ok(), "{user}");
    }
    let why = "clustertrustbundles.certificates.k8s.io \"b\" is forbidden: user not permitted to attest for signerName \
               \"example.com/ca\"";
    write("other", of("example.com/ca")).refused(&world, 403, why);
    assert!(
        write("other", json!({"metadata": {"name": "b"}, "spec": {"trustBundle": "x"}})).run(&world).is_ok()
    );
    // The garbage collector may take what is its own; nobody else may change anything.
    let mut old = of("example.com/ca");
    old["metadata"]["finalizers"] = json!(["a/b"]);
    let change = |new: Value| Write {
        namespace: "",
        user: User::new("other", &[]),
        ..Write::update("certificates.k8s.io", "clustertrustbundles", "b", old.clone(), new)
    };
    assert!(change(of("example.com/ca")).run(&world).is_ok());
    let mut labelled = old.clone();
    labelled["metadata"]["labels"] = json!({"a": "b"});
    change(labelled).refused(&world, 403, why);
}
