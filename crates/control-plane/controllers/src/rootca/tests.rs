//! When the ConfigMap is written.

use super::decide::{Decision, KEY, NAME, decide};
use crate::testing::{namespace, time};

#[test]
fn the_config_map_follows_the_certificates() {
    let alive = namespace("a");
    let Decision::Create(mut published) = decide(&alive, None, "PEM") else {
        panic!("missing one is created")
    };
    assert_eq!(published.metadata.name.as_deref(), Some(NAME));
    assert_eq!(published.data.as_ref().unwrap()[KEY], "PEM");
    assert_eq!(decide(&alive, Some(&published), "PEM"), Decision::Keep);
    let Decision::Update(rotated) = decide(&alive, Some(&published), "NEW") else {
        panic!("other certificates")
    };
    assert_eq!(rotated.data.as_ref().unwrap()[KEY], "NEW");
    published.data.as_mut().unwrap().insert("more".to_owned(), "x".to_owned());
    assert!(matches!(decide(&alive, Some(&published), "PEM"), Decision::Update(_)), "additions are removed");
    let mut deleting = namespace("a");
    deleting.metadata.deletion_timestamp = Some(time(1));
    assert_eq!(decide(&deleting, None, "PEM"), Decision::Keep);
}
