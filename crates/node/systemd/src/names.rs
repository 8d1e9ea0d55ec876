//! Names of slices. A dash stands for a level: `a-b.slice` is in `a.slice`.

/// The group of these names, each within the one before: `[a, b-c]` is `/a.slice/a-b_c.slice`. Dashes in names are written as
/// underscores.
pub fn path(names: &[&str]) -> String {
    let (mut path, mut unit) = (String::new(), String::new());
    for name in names {
        if !unit.is_empty() {
            unit.push('-');
        }
        unit.push_str(&name.replace('-', "_"));
        path.push('/');
        path.push_str(&unit);
        path.push_str(".slice");
    }
    path
}

/// Where a slice's group is: `a-b.slice` is `/a.slice/a-b.slice`, and the root slice, `-.slice`, is nothing. `None`: it is no
/// slice's name.
pub fn expand(slice: &str) -> Option<String> {
    let name = slice.strip_suffix(".slice")?;
    if name == "-" {
        return Some(String::new());
    }
    let levels: Vec<&str> = name.split('-').collect();
    let is_name = |level: &&str| {
        !level.is_empty()
            && level.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":_.\\".contains(&byte))
    };
    levels.iter().all(is_name).then(|| path(&levels))
}

/// The unit that is named last in a group's path, and the slice it is in.
pub fn units(path: &str) -> (&str, &str) {
    let mut parts = path.trim_matches('/').rsplit('/');
    (parts.next().unwrap_or_default(), parts.next().unwrap_or("-.slice"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        for (names, expected) in [
            (&["kubepods"][..], "/kubepods.slice"),
            (&["kubepods", "burstable"], "/kubepods.slice/kubepods-burstable.slice"),
            (
                &["kubepods", "besteffort", "pod1-2-3"],
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1_2_3.slice",
            ),
            (
                &["my-root", "kubepods", "podx"],
                "/my_root.slice/my_root-kubepods.slice/my_root-kubepods-podx.slice",
            ),
        ] {
            assert_eq!(path(names), expected);
            let (unit, _) = units(expected);
            assert_eq!(expand(unit).as_deref(), Some(expected));
        }
        assert_eq!(units("/kubepods.slice"), ("kubepods.slice", "-.slice"));
        assert_eq!(units("/a.slice/a-b.slice"), ("a-b.slice", "a.slice"));
    }

    #[test]
    fn what_is_a_slice() {
        for (slice, expected) in [
            ("-.slice", Some("")),
            ("a.slice", Some("/a.slice")),
            ("a-b_c-d.slice", Some("/a.slice/a-b_c.slice/a-b_c-d.slice")),
            ("user-1000.slice", Some("/user.slice/user-1000.slice")),
            (r"a\x2db.slice", Some(r"/a\x2db.slice")),
            (".slice", None),
            ("a--b.slice", None),
            ("-a.slice", None),
            ("a-.slice", None),
            ("a/b.slice", None),
            ("../a.slice", None),
            ("a b.slice", None),
            ("a.scope", None),
            ("kubepods", None),
            ("", None),
        ] {
            assert_eq!(expand(slice).as_deref(), expected, "{slice}");
        }
    }
}
