//! Images that a service account opens, against a runtime and an API server that pretend.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use crate::{
    CredentialProviders,
    tests_life::{World, container, is, with},
};

/// A plugin that has joe's credentials for whoever has a token.
fn providers(directory: &std::path::Path) -> CredentialProviders {
    let answer = json!({"kind": "CredentialProviderResponse", "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
        "cacheKeyType": "Image", "auth": {"docker.io": {"username": "joe", "password": "pw"}}});
    let plugin = directory.join("plugin");
    std::fs::write(&plugin, format!("#!/bin/sh\ngrep -q token-of- && echo '{answer}'\n")).unwrap();
    std::fs::set_permissions(&plugin, std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = json!({"apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig", "providers": [{
        "name": "plugin", "matchImages": ["docker.io"], "defaultCacheDuration": "1h",
        "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
        "tokenAttributes": {"serviceAccountTokenAudience": "reg", "requireServiceAccount": true, "cacheType": "ServiceAccount"}}]});
    let file = directory.join("config.json");
    std::fs::write(&file, config.to_string()).unwrap();
    CredentialProviders::read(&file, directory).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_for_the_service_account_that_they_were_pulled_with() {
    let directory = tempfile::tempdir().unwrap();
    let Some(mut world) = World::start_providing(providers(directory.path())) else { return };
    world.runtime.held.lock().registry.insert("secret:v1".into(), "joe".into());
    for name in ["bot", "other"] {
        world.api.put(
            "serviceaccounts",
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": "default"}}),
        );
    }
    let pod = |world: &World, name: &str, account: &str| {
        let image = json!({"image": "secret:v1"});
        world.pod(name, json!({"serviceAccountName": account, "containers": [with(container("a"), image)]}));
    };
    let ready = |pod: &Value| is(pod, "Ready", "True");
    let pulls = |world: &World| world.runtime.calls().iter().filter(|call| *call == "pull secret:v1").count();
    pod(&world, "first", "bot");
    world.wait("first", "pulls", ready).await;
    pod(&world, "second", "bot");
    world.wait("second", "has the account", ready).await;
    assert_eq!(pulls(&world), 1, "nobody asked the registry again");
    pod(&world, "third", "other");
    world.wait("third", "asks the registry", ready).await;
    assert_eq!(pulls(&world), 2, "another account has to");
    // Records outlive the kubelet.
    world = world.restart().await;
    let before = pulls(&world);
    for (name, account) in [("fourth", "bot"), ("fifth", "other")] {
        pod(&world, name, account);
        world.wait(name, "has the account", ready).await;
    }
    assert_eq!(pulls(&world), before);
    pod(&world, "stranger", "");
    let waits = |pod: &Value| {
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "ImagePullBackOff"
    };
    world.wait("stranger", "has no account", waits).await;
    world.stop().await;
}
