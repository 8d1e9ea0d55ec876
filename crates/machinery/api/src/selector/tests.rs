//! The grammar and its errors as upstream words them; matching; round trips.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn parses_to_canonical_text() {
    for (text, canonical) in [
        ("", ""),
        (" ", ""),
        ("x=a", "x=a"),
        ("x == a , y != b", "x==a,y!=b"),
        ("y,x", "x,y"),
        ("!x", "!x"),
        ("x in (b,a)", "x in (a,b)"),
        ("x notin (a)", "x notin (a)"),
        ("x in ()", "x in ()"),
        ("x in (,a)", "x in (,a)"),
        ("x in (a,)", "x in (,a)"),
        ("x in (foo,,baz),y,z notin ()", "x in (,baz,foo),y,z notin ()"),
        ("x in (in,notin)", "x in (in,notin)"),
        ("in=notin", "in=notin"),
        ("x>1,z<5", "x>1,z<5"),
        ("x=", "x="),
        ("x=,y=b", "x=,y=b"),
        ("a.b/c-d=v_1", "a.b/c-d=v_1"),
    ] {
        assert_eq!(LabelSelector::parse(text).map(|s| s.to_string()), Ok(canonical.to_owned()), "{text}");
    }
}

#[test]
fn refuses_with_upstreams_words() {
    const NAME: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
    let name_fault = format!(
        "name part {NAME} (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
    );
    for (text, error) in [
        ("x=a||y=b", format!("values[0][x]: Invalid value: \"a||y\": {}", value_fault())),
        ("x in", "found '' expected: '('".to_owned()),
        ("x in (a", "found '', expected: ',' or ')'".to_owned()),
        ("x in (=)", "found '=', expected: ',', ')' or identifier".to_owned()),
        ("x a", "found 'a', expected: in, notin, =, ==, !=, gt, lt".to_owned()),
        ("x=!", "found '!', expected: identifier".to_owned()),
        ("!", "found '', expected: identifier".to_owned()),
        ("-x=a", format!("<nil>: Invalid value: \"-x\": {name_fault}")),
        (
            "x>a",
            "values[0]: Invalid value: \"a\": for 'Gt', 'Lt' operators, the value must be an integer"
                .to_owned(),
        ),
    ] {
        let expected = match text {
            // The value ends at the second `=`, so the fault found first is the value's.
            "x=a||y=b" => format!("unable to parse requirement: {error}"),
            _ => format!("unable to parse requirement: {error}"),
        };
        assert_eq!(LabelSelector::parse(text).unwrap_err().0, expected, "{text}");
    }
    for (text, error) in [
        ("=a", "found '=', expected: !, identifier, or 'end of string'"),
        ("x=a,", "found '', expected: identifier after ','"),
        ("x,,y", "found ',', expected: identifier after ','"),
        ("x=a b", "found 'b', expected: ',' or 'end of string'"),
        (",", "found ',', expected: !, identifier, or 'end of string'"),
    ] {
        assert_eq!(LabelSelector::parse(text).unwrap_err().0, error, "{text}");
    }
}

fn value_fault() -> String {
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')".to_owned()
}

#[test]
fn matching() {
    let app = labels(&[("app", "web"), ("tier", "front"), ("n", "5")]);
    for (text, expected) in [
        ("", true),
        ("app=web", true),
        ("app=db", false),
        ("app!=db", true),
        ("missing!=x", true),
        ("missing", false),
        ("!missing", true),
        ("app in (web,db),tier notin (back)", true),
        ("missing notin (a)", true),
        ("n>4,n<6", true),
        ("n>5", false),
        ("app>1", false),
        ("missing>1", false),
    ] {
        assert_eq!(LabelSelector::parse(text).unwrap().matches(&app), expected, "{text}");
    }
    assert!(!LabelSelector::nothing().matches(&app));
    assert!(LabelSelector::everything().matches_option(None));
    assert!(LabelSelector::parse("a=b").unwrap().matches_value(&json!({"metadata": {"labels": {"a": "b"}}})));
}

#[test]
fn from_objects() {
    let wire = json!({"matchLabels": {"b": "1"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["y", "x"]}]});
    let selector = LabelSelector::from_value(&wire).unwrap();
    assert_eq!(selector.to_string(), "a in (x,y),b=1");
    let typed: WireSelector = serde_json::from_value(wire).unwrap();
    assert_eq!(LabelSelector::from_object(&typed).unwrap(), selector);
    assert!(LabelSelector::from_value(&Value::Null).unwrap().is_nothing());
    assert!(LabelSelector::from_option(None).unwrap().is_nothing());
    assert!(LabelSelector::from_value(&json!({})).unwrap().is_everything());
    let bad = json!({"matchExpressions": [{"key": "a", "operator": "Is"}]});
    assert_eq!(
        LabelSelector::from_value(&bad).unwrap_err().0,
        r#""Is" is not a valid label selector operator"#
    );
    assert_eq!(LabelSelector::parse("a=1,b in (2)").unwrap().exact_requirement("b"), Some("2"));
    assert_eq!(LabelSelector::parse("a!=1").unwrap().exact_requirement("a"), None);
}

#[test]
fn field_selectors() {
    let selector =
        FieldSelector::parse("status.phase!=Failed,spec.nodeName==n1,metadata.name=a\\,b").unwrap();
    assert_eq!(selector.to_string(), "metadata.name=a\\,b,spec.nodeName=n1,status.phase!=Failed");
    assert_eq!(selector.exact_requirement("spec.nodeName"), Some("n1"));
    assert_eq!(selector.exact_requirement("status.phase"), None);
    let get = |phase: &'static str| {
        move |field: &str| match field {
            "metadata.name" => Some("a,b"),
            "spec.nodeName" => Some("n1"),
            "status.phase" => Some(phase),
            _ => None,
        }
    };
    assert!(selector.matches(get("Running")));
    assert!(!selector.matches(get("Failed")));
    assert!(FieldSelector::parse("").unwrap().is_everything());
    assert!(FieldSelector::parse("spec.nodeName=").unwrap().matches(|_| None));
    for (text, error) in [
        ("abc", "invalid selector: 'abc'; can't understand 'abc'"),
        ("a=b=c", "invalid field selector: unescaped character in value: 61"),
        ("a=\\b", "invalid field selector: invalid escape sequence: \\b"),
        ("a=\\", "invalid field selector: invalid escape sequence: \\"),
    ] {
        assert_eq!(FieldSelector::parse(text).unwrap_err().0, error, "{text}");
    }
}

proptest! {
    #[test]
    fn label_text_round_trips(text in "[a-c!=<>, ()in]{0,24}") {
        if let Ok(selector) = LabelSelector::parse(&text) {
            prop_assert_eq!(LabelSelector::parse(&selector.to_string()), Ok(selector));
        }
    }

    #[test]
    fn negation_is_complement(value in proptest::option::of("[ab]{1,2}")) {
        let value = value.as_deref();
        let get = |text: &str| LabelSelector::parse(text).unwrap().matches_fn(|_| value);
        prop_assert_ne!(get("x in (a,b)"), get("x notin (a,b)"));
        prop_assert_ne!(get("x=a"), get("x!=a"));
        prop_assert_ne!(get("x"), get("!x"));
    }

    #[test]
    fn field_text_round_trips(field in "[a-z.]{1,8}", value in "[a-z,=\\\\]{0,8}", equals: bool) {
        let selector = FieldSelector { requirements: vec![FieldRequirement { field, value, equals }] };
        prop_assert_eq!(FieldSelector::parse(&selector.to_string()), Ok(selector));
    }
}
